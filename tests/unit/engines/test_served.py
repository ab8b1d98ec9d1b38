"""A guarded reasoner whose weights stand behind a server: what works as ever, and what is refused when it is built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from safethink.cli.main import PROGRAM
from safethink.config import (
    ConstantMonitorConfig,
    LimitsConfig,
    NoneConfig,
    ReasonerConfig,
    RunConfig,
    SamplingConfig,
    ServerConfig,
)
from safethink.config.yaml_config import dump
from safethink.defenses import Needs, Rule, build
from safethink.defenses.none import undefended
from safethink.engines.http import HttpEngine
from safethink.errors import ArtifactError, ConfigError, MissingFileError, ServerError
from safethink.guarded import SafeThink
from safethink.models.hashes import model_hash
from safethink.models.placement import decoding_gib
from safethink.monitors import ScoreRequest
from safethink.prefix import Identity, Prefix, PrefixArtifact
from safethink.runtime.scheduler import refuse_unfit
from tests.support import chat_reasoner, vllm_double
from tests.support.vllm_double import VllmDouble

TOKENIZER = chat_reasoner.tokenizer()


@pytest.fixture(scope="module")
def model():
    return chat_reasoner.model(dtype=torch.float32)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("reasoner")
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def weightless(path, tmp_path_factory) -> str:
    """What is needed here of a served reasoner: no weights."""
    folder = tmp_path_factory.mktemp("weightless")
    for file in Path(path).iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    return str(folder)


@pytest.fixture
def double(model) -> Iterator[VllmDouble]:
    with VllmDouble(model, TOKENIZER, max_model_len=400) as served:
        yield served


def config(path: str, *urls: str) -> RunConfig:
    return RunConfig(
        reasoner=ReasonerConfig(path=path, server=ServerConfig(urls=urls, max_retries=0) if urls else None),
        monitor=ConstantMonitorConfig(value=-1.0),
        sampling=SamplingConfig(temperature=0.0),
        limits=LimitsConfig(max_step_tokens=8, max_trace_tokens=40, max_answer_tokens=8),
    )


@pytest.mark.slow
def test_a_guarded_run_is_that_of_local_weights_and_loads_none(double, path, weightless) -> None:
    served = SafeThink.from_config(config(weightless, double.url))
    local = SafeThink.from_config(config(path))
    assert isinstance(served.engine, HttpEngine)
    for ours, theirs in zip(local.run(["hmm", "add 3"], 2), served.run(["hmm", "add 3"], 2), strict=True):
        assert theirs.verdict == ours.verdict
        assert theirs.interventions


@pytest.fixture
def text_double(model) -> Iterator[VllmDouble]:
    """A server that takes text alone."""
    with VllmDouble(model, TOKENIZER, max_model_len=400, ids=False) as served:
        yield served


@pytest.mark.parametrize("merging", ["text:First mix it.", "text:First"])
def test_a_prefix_that_merges_with_the_step_before_it_is_refused_when_the_run_is_built(
    text_double, double, weightless, merging: str
) -> None:
    """Where a server takes text alone: a break and `First` merge in this vocabulary, a break and `Wait` do not."""
    said = (
        rf"prefix '{merging.removeprefix('text:')}.*': the server takes text alone, and behind '.*' the prefix's text"
    )
    with pytest.raises(ConfigError, match=said) as refused:
        SafeThink.from_config(config(weightless, text_double.url).replace(prefix=merging))
    assert "\n" not in str(refused.value)
    served = SafeThink.from_config(config(weightless, text_double.url).replace(prefix="text:Wait, is this right?"))
    with pytest.raises(ConfigError, match=said):
        served.variant(prefix=merging)
    # Nobody injects it.
    SafeThink.from_config(config(weightless, text_double.url).replace(prefix=merging, defense=NoneConfig()))
    SafeThink.from_config(config(weightless, double.url).replace(prefix=merging))


def test_the_smaller_context_window_counts(double, path) -> None:
    assert SafeThink.from_config(config(path, double.url)).thought.context_tokens == 400
    double.max_model_len = 100_000
    assert SafeThink.from_config(config(path, double.url)).thought.context_tokens == 512


def test_a_soft_prefix_is_refused_with_what_to_export_instead(double, path, model) -> None:
    served = SafeThink.from_config(config(path, double.url))
    learned_on = Identity(name="r", sha256=model_hash(model, rounded=True))
    soft = PrefixArtifact(name="rows", prefixes=(Prefix(text="x"),), reasoner=learned_on)
    soft = soft.with_rows([torch.zeros(2, 32, dtype=torch.bfloat16)], ["wait"])
    with pytest.raises(ArtifactError, match=r"'rows' is embedding rows.*a server reads tokens alone.*") as caught:
        served.variant(prefix=soft)
    assert "`safethink-optimize export ARTIFACT --reasoner REASONER --out FOLDER`" in str(caught.value)
    assert "the nearest hard prefix" in str(caught.value)


def test_what_needs_the_weights_is_refused_in_one_line(double, path) -> None:
    served = SafeThink.from_config(config(path, double.url))
    with pytest.raises(ConfigError, match="they stand behind a server"):
        _ = served.model
    with pytest.raises(ConfigError, match="which its engine has not"):
        _ = served.local_engine
    assert served.fingerprint == "served as double"


def test_token_level_defenses_and_monitors_of_hidden_states_are_refused_when_the_run_is_built(double, path) -> None:
    class Probe:
        layer = 1

        def score(self, requests: list[ScoreRequest]) -> list[float]:
            return [0.0 for _ in requests]

        def release(self, row: int) -> None: ...

    served = SafeThink.from_config(config(path, double.url))
    with pytest.raises(ConfigError, match="'entropy' looks at single tokens, and HttpEngine does not show them"):
        refuse_unfit(served.engine, Rule("entropy", undefended, Needs(scores=False, token_level=True)))
    with pytest.raises(ConfigError, match="Probe reads the reasoner's hidden states, and HttpEngine shows none"):
        refuse_unfit(served.engine, build(NoneConfig()), Probe())


def test_a_server_that_is_not_there_or_a_path_that_names_nothing_is_said_at_once(double, path, tmp_path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        SafeThink.from_config(config(str(tmp_path / "nowhere"), double.url))
    double.stop()
    with pytest.raises(ServerError, match="cannot be reached"):
        SafeThink.from_config(config(path, double.url))
    double.start()


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (vllm_double.says("<html>Welcome</html>"), "answers what is no JSON"),
        (vllm_double.returns({"ok": True}), "answers nonsense: choices"),
        (vllm_double.status(401, "no key"), "says 401: 'no key'"),
    ],
)
def test_a_server_that_answers_nonsense_is_one_line_and_status_2(double, path, tmp_path, capsys, fault, complaint):
    file = tmp_path / "run.yaml"
    file.write_text(dump(config(path, double.url)))
    double.faults.append(fault)
    assert PROGRAM.main(["generate", str(file), "hmm"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("safethink: ")
    assert complaint in said.err
    assert said.err.count("\n") == 1


def test_served_weights_take_no_memory_here(path) -> None:
    here = decoding_gib(config(path))
    assert here is not None
    assert here > 0
    assert decoding_gib(config(path, "http://127.0.0.1:1/v1")) == 0


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host/v1", "http://", "http://a b/v1"])
def test_a_url_that_is_none_is_refused(url) -> None:
    with pytest.raises(ValueError, match=r"urls\.0"):
        ServerConfig(urls=(url,))
