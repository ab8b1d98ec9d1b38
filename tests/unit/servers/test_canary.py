"""A prefix cache that is wrong for recurrent layers is found before the run, and nothing is asked of other models."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    FalconH1Config,
    GptOssConfig,
    Lfm2Config,
    NemotronHConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

from safethink.cli.main import PROGRAM
from safethink.config import ServerConfig
from safethink.errors import ServerError
from safethink.servers import canary
from safethink.servers.canary import Reply, difference
from safethink.servers.completions import Completions
from tests.support import chat_reasoner, vllm_double
from tests.support.vllm_double import Recall, VllmDouble

TOKENIZER = chat_reasoner.tokenizer()


@pytest.fixture(scope="module")
def model():
    """Random weights that are sure of what they say, as trained ones are of a text that repeats itself."""
    reasoner = chat_reasoner.model(dtype=torch.float32)
    reasoner.lm_head.weight.data *= 8
    return reasoner


@pytest.fixture(autouse=True)
def nonces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others in every request, the same in every run."""
    numbers = random.Random(0)
    monkeypatch.setattr(secrets, "token_hex", lambda num_bytes: numbers.randbytes(num_bytes).hex())


@pytest.fixture
def double(model) -> Iterator[VllmDouble]:
    with VllmDouble(model, TOKENIZER, max_model_len=400) as served:
        yield served


def connect(*doubles: VllmDouble) -> Completions:
    return Completions(ServerConfig(urls=[each.url for each in doubles], max_retries=0), TOKENIZER)


def check(*doubles: VllmDouble) -> None:
    canary.check(connect(*doubles), 400)


def loses_the_state(ids: list[int], known: int) -> list[int]:
    """Goes on as if nothing had been read of what is cached, and from its beginning where that is all."""
    return ids[known:] or ids[:7]


def keeps_it_where_a_prompt_parts(ids: list[int], known: int) -> list[int]:
    """Only a prompt that goes on as the cached one did is read rightly."""
    return ids if len(ids) - known <= canary.NUM_APPENDED else ids[known:]


def loses_it_behind_own_words(ids: list[int], known: int) -> list[int]:
    return ids[known - 1 :] if len(ids) - known == canary.NUM_APPENDED else ids


@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("extended", [True, False])
def test_a_right_cache_passes_with_five_requests_at_most(double, ids: bool, extended: bool) -> None:
    double.ids, double.extended = ids, extended
    completions = connect(double)
    double.requests.clear()
    canary.check(completions, 400)
    assert len(double.requests) == 2 + 2 * extended + ids * extended
    assert all(len(body["prompt"]) > 200 for body in double.requests), "a text that spans blocks of a cache"


@pytest.mark.parametrize(
    ("recall", "how"),
    [
        (loses_the_state, "when a prompt is asked again"),
        (loses_it_behind_own_words, "behind its own words"),
        (keeps_it_where_a_prompt_parts, "after a rollback"),
    ],
)
def test_a_wrong_cache_is_refused_with_the_flags_that_turn_it_off(double, recall: Recall, how: str) -> None:
    double.recall = recall
    with pytest.raises(ServerError, match=rf"the server at {double.url} goes on otherwise {how}.*token 1") as caught:
        check(double)
    assert "`--no-enable-prefix-caching` of vLLM" in str(caught.value)
    assert "`--disable-radix-cache` of SGLang" in str(caught.value)


def test_a_wrong_cache_of_a_server_that_takes_text_alone_is_refused_too(double) -> None:
    double.ids, double.extended, double.recall = False, False, loses_the_state
    with pytest.raises(ServerError, match="when a prompt is asked again"):
        check(double)


def test_a_server_that_gives_no_log_probabilities_is_checked_by_its_tokens(double) -> None:
    completions = connect(double)
    double.recall = loses_the_state
    double.faults.append(vllm_double.status(400, "logprobs are not allowed"))
    with pytest.raises(ServerError, match="when a prompt is asked again"):
        canary.check(completions, 400)
    assert all("logprobs" not in body for body in double.requests[2:])


def test_every_replica_is_checked_and_one_that_is_down_is_said(model, double, caplog) -> None:
    with VllmDouble(model, TOKENIZER, max_model_len=400, recall=loses_the_state) as other:
        with pytest.raises(ServerError, match=other.url):
            check(double, other)
        other.stop()
        with caplog.at_level(logging.WARNING):
            check(double, other)
        assert f"whether the prefix cache of {other.url} is right could not be checked: no answer" in caplog.text
        other.start()


def test_what_cannot_be_asked_is_said(double, caplog) -> None:
    completions = connect(double)
    double.faults += [vllm_double.status(400, "too long")] * 2
    canary.check(completions, 400)
    assert "could not be checked: the server at" in caplog.text


def test_no_two_runs_ask_the_same(double) -> None:
    check(double)
    first = len(double.requests)
    check(double)
    begun = [tuple(body["prompt"][:8]) for body in (double.requests[1], double.requests[first + 1])]
    assert begun[0] != begun[1]


REMOTE: dict[str, Any] = {"hybrid_override_pattern": "M-M*", "ssm_state_size": 128}
"""Of a model whose code comes along with it."""
FRESH = Reply((1, 2, 3), (-0.1, -0.2, -0.3), (4.0, 0.3, 2.0))


@pytest.mark.parametrize(
    ("cached", "said"),
    [
        (FRESH, None),
        (Reply((1, 2, 3), (-0.3, -0.1, -0.3)), None),
        (Reply((1, 2, 3), (-0.1, -0.8, -0.3)), "the log-probability of token 2 is -0.80 instead of -0.20"),
        (Reply((1, 9, 8), (-0.1, -0.3, -5.0)), None),
        (Reply((1, 9, 8), (-0.1, -1.3, -5.0)), "the log-probability of token 2 is -1.30 instead of -0.20"),
        (Reply((1, 2, 9), (-0.1, -0.2, -0.3)), "token 3 is 9 instead of 3"),
        (Reply((5, 2, 3)), "token 1 is 5 instead of 1"),
        (Reply((1, 2), (-0.1, -0.2), ended=True), "it has 2 tokens instead of 3"),
        (Reply((1, 2), (-0.1, -0.2)), None),
    ],
)
def test_rounding_and_near_ties_are_no_difference(cached: Reply, said: str | None) -> None:
    assert difference(FRESH, cached) == said


@pytest.mark.parametrize(
    ("config", "recurrent"),
    [
        (Qwen3Config(), False),
        (GptOssConfig(), False),
        (Qwen3NextConfig(), True),
        (FalconH1Config(), True),
        (NemotronHConfig(), True),
        (Lfm2Config(), True),
        (PreTrainedConfig(**REMOTE), True),
    ],
)
def test_recurrent_layers_are_told_from_the_configuration(config: PreTrainedConfig, recurrent: bool) -> None:
    assert canary.has_recurrent_layers(config) == recurrent


@pytest.mark.parametrize("recurrent", [True, False])
def test_a_run_in_front_of_a_hybrid_with_a_wrong_cache_does_not_begin(
    double, tmp_path: Path, capsys, recurrent: bool
) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    (Qwen3NextConfig() if recurrent else Qwen3Config()).save_pretrained(tmp_path)
    double.recall = loses_the_state
    run = f"reasoner: {{path: {tmp_path}, server: {{urls: [{double.url}], max_retries: 0}}}}\n"
    limits = "limits: {max_step_tokens: 4, max_trace_tokens: 8, max_answer_tokens: 4}\n"
    (tmp_path / "run.yaml").write_text(f"{run}{limits}monitor: {{kind: constant, value: 1.0}}\n")
    status = PROGRAM.main(["generate", str(tmp_path / "run.yaml"), "hmm"])
    said = capsys.readouterr().err
    assert status == (2 if recurrent else 0), said
    assert ("its prefix cache is wrong" in said) == recurrent
    assert said.count("\n") <= 1 or not recurrent
