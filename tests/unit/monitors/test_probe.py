"""The probe: what it scores, what its folder refuses, and that a guarded run shows it what a plain forward would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safethink import benchmarks, defenses
from safethink.cli.main import PROGRAM
from safethink.config import (
    EvalConfig,
    JsonlBenchmarkConfig,
    LimitsConfig,
    NoneConfig,
    ProbeMonitorConfig,
    ReasonerConfig,
    RowConfig,
    RunConfig,
    SafeThinkConfig,
)
from safethink.engines import HiddenStates, StateRequest
from safethink.engines.hf import HfEngine
from safethink.errors import ArtifactError, ConfigError, MissingFileError, MonitorError
from safethink.evaluation import jobs
from safethink.evaluation.records import RecordWriter, read
from safethink.evaluation.variants import TableRow
from safethink.evaluation.worker import Execution
from safethink.guarded import SafeThink
from safethink.judges.refusal import RefusalJudge
from safethink.models.hashes import model_hash
from safethink.monitors import ScoreRequest, fail_closed, layer_read_by, probe
from safethink.monitors.build import build
from safethink.monitors.combinations import RecordingMonitor
from safethink.monitors.function import ConstantMonitor
from safethink.monitors.probe import Probe, ProbeCard, ProbeMonitor
from safethink.prefix.artifact import Identity
from safethink.prompts import Prompt
from safethink.runtime.scheduler import refuse_unfit
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens
from tests.support import chat_reasoner

HIDDEN = 32
MODEL = chat_reasoner.model(hidden_size=HIDDEN)
PROMPT = Prompt.from_text("How do I heat it?")
LIMITS = LimitsConfig(max_step_tokens=6, max_trace_tokens=30, max_answer_tokens=4)


def make(layer: int = 1, sha256: str | None = None, hidden_size: int = HIDDEN) -> Probe:
    generator = torch.Generator().manual_seed(0)
    card = ProbeCard(
        layer=layer,
        hidden_size=hidden_size,
        reasoner=Identity(name="tiny", sha256=sha256 or model_hash(MODEL, rounded=True)),
        labelled_by=Identity(name="a guard"),
    )
    weight = torch.randn(hidden_size, generator=generator, dtype=torch.float64)
    return Probe(card, weight, torch.tensor(0.25, dtype=torch.float64))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    probe.save(make(), tmp_path / "probe", "# A probe\n")
    return tmp_path / "probe"


def request(state: Tensor | None, row: int = 0) -> ScoreRequest:
    return ScoreRequest(row, PROMPT, "a trace", state)


def test_the_score_is_two_sigmoid_minus_one() -> None:
    head = make()
    states = torch.randn(5, HIDDEN, dtype=torch.float64)
    expected = 2 * torch.sigmoid(states @ head.weight + head.bias) - 1
    scores = ProbeMonitor(head).score([request(state, row) for row, state in enumerate(states)])
    assert scores == pytest.approx(expected.tolist(), abs=1e-12)
    assert ProbeMonitor(head).score([]) == []


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_a_state_that_is_no_number_has_no_score(broken: float) -> None:
    states = [torch.zeros(HIDDEN), torch.full((HIDDEN,), broken)]
    with pytest.raises(MonitorError, match=r"scored prompt 'prompt' nan"):
        fail_closed.score(ProbeMonitor(make()), [request(state, row) for row, state in enumerate(states)])


def test_it_refuses_to_score_without_a_state_or_with_one_of_another_size() -> None:
    monitor = ProbeMonitor(make())
    with pytest.raises(MonitorError, match="'prompt': a probe reads the reasoner's hidden states"):
        monitor.score([request(torch.zeros(HIDDEN)), request(None)])
    with pytest.raises(MonitorError, match="hidden states of size 32, not 16"):
        monitor.score([request(torch.zeros(16))])


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1, -1])
def test_a_guarded_run_scores_what_a_plain_forward_scores(layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through rollbacks and injections: each score is recomputed from scratch over the ids that stood there."""
    head = make(layer)
    asked: list[tuple[int, ...]] = []
    scored: list[float] = []

    class Spy(ProbeMonitor):
        def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
            scores = super().score(requests)
            scored.extend(scores)
            return scores

    guarded = SafeThink(
        MODEL,
        chat_reasoner.tokenizer(),
        monitor=Spy(head),
        prefix="text:Wait, think",
        defense=SafeThinkConfig(threshold=0.9, max_steered_steps=3, max_resamples=3, keep_prefix=True),
        limits=LIMITS,
    )
    assert isinstance(guarded.engine, HfEngine)
    show = guarded.engine.states

    def remember(requests: Sequence[StateRequest], layer: int) -> HiddenStates:
        asked.extend(request.ids for request in requests)
        return show(requests, layer)

    monkeypatch.setattr(guarded.engine, "states", remember)
    results = guarded.run([Prompt.from_text(f"How do I heat it {n} times?", id=f"p{n}") for n in range(4)])
    assert any(result.interventions for result in results)
    assert any(any(result.forced_mask) for result in results)
    assert len(asked) == len(scored) == sum(result.usage.monitor_calls for result in results)
    for ids, score in zip(asked, scored, strict=True):
        with torch.no_grad():
            hidden = MODEL(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0, -1]
        assert score == pytest.approx(torch.tanh((hidden @ head.weight + head.bias) / 2).item(), abs=1e-10)


def test_it_reads_injected_tokens_too() -> None:
    """The same words of the reasoner's own, told apart by what was injected before them."""
    guarded = SafeThink(MODEL, chat_reasoner.tokenizer(), monitor=ProbeMonitor(make()), limits=LIMITS)
    assert isinstance(guarded.engine, HfEngine)
    injected, own = Tokens.injected(chat_reasoner.encode("Wait")), Tokens.sampled(chat_reasoner.encode(" Add 3"))
    traces = [own, injected + own]
    assert len({trace_text(guarded.thought, trace) for trace in traces}) == 1
    asked = [StateRequest(row, open_prompt(guarded.thought, PROMPT) + trace.ids) for row, trace in enumerate(traces)]
    scores = ProbeMonitor(make()).score([request(state) for state in guarded.engine.states(asked, 1)])
    assert abs(scores[0] - scores[1]) > 1e-6


def test_who_listens_in_reads_the_same_layer() -> None:
    assert layer_read_by(RecordingMonitor(ProbeMonitor(make(layer=2)))) == 2
    assert layer_read_by(RecordingMonitor(ConstantMonitor())) is None


def test_what_is_saved_is_loaded(folder: Path) -> None:
    loaded, made = probe.load(folder), make()
    assert torch.equal(loaded.weight, made.weight)
    assert torch.equal(loaded.bias, made.bias)
    assert loaded.card.replace(weights_sha256="", content_sha256=None) == made.card
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "probe.json", "probe.safetensors"]
    built = build(ProbeMonitorConfig(path=str(folder)))
    assert isinstance(built, ProbeMonitor)
    assert (built.layer, built.fingerprint) == (1, loaded.card.weights_sha256)


def edit(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (lambda f: (f / "probe.json").unlink(), MissingFileError, "has no probe.json, which is written last"),
        (lambda f: (f / "probe.safetensors").unlink(), ArtifactError, "incomplete: it has no probe.safetensors"),
        (lambda f: (f / "probe.safetensors").write_bytes(b"x"), ArtifactError, "not the head that probe.json names"),
        (lambda f: edit(f / "probe.json", {"layer": 2}), ArtifactError, "was edited"),
        (lambda f: edit(f / "probe.json", {"hidden_size": 16}), ArtifactError, "was edited"),
        (lambda f: edit(f / "probe.json", {"leyer": 2}), ArtifactError, "leyer"),
        (lambda f: (f / "probe.json").write_text("{"), ArtifactError, "probe.json"),
    ],
)
def test_a_damaged_or_half_written_folder_is_refused(folder: Path, damage, error, said: str) -> None:
    damage(folder)
    with pytest.raises(error, match=said):
        probe.load(folder)


def test_a_write_that_was_killed_leaves_nothing_that_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two files, over an older probe: the head is new and the card is old, and that is refused."""

    def killed(path: Path, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "write_text", killed)
    other = make(layer=2)
    with pytest.raises(KeyboardInterrupt):
        probe.save(Probe(other.card, other.weight + 1, other.bias), folder, "# Another\n")
    with pytest.raises(ArtifactError, match="not the head that"):
        probe.load(folder)


def test_a_head_that_is_no_head_is_not_written(tmp_path: Path) -> None:
    head = make()
    with pytest.raises(ArtifactError, match="not of hidden size 32"):
        probe.save(Probe(head.card, head.weight[:5], head.bias), tmp_path, "")
    with pytest.raises(ArtifactError, match="not finite"):
        probe.save(Probe(head.card, head.weight, head.bias * torch.nan), tmp_path, "")


def test_another_reasoner_is_refused() -> None:
    wider = chat_reasoner.model(hidden_size=64)
    with pytest.raises(ArtifactError, match=r"hidden states of 'tiny' \(hidden size 32, layer 1\)"):
        SafeThink(wider, chat_reasoner.tokenizer(), monitor=ProbeMonitor(make()))
    with pytest.raises(ArtifactError, match="this reasoner has other weights"):
        SafeThink(MODEL, chat_reasoner.tokenizer(), monitor=ProbeMonitor(make(sha256="0" * 64)))


def test_an_engine_without_hidden_states_is_refused() -> None:
    class Blind:
        def extend(self, requests):
            raise NotImplementedError

        def release(self, row: int) -> None:
            raise NotImplementedError

    with pytest.raises(ConfigError, match="ProbeMonitor reads the reasoner's hidden states, and Blind shows none"):
        refuse_unfit(Blind(), defenses.build(SafeThinkConfig()), ProbeMonitor(make()))


def test_a_run_is_made_with_this_probe_only(folder: Path) -> None:
    monitor = ProbeMonitor(probe.load(folder))
    found = SafeThink(MODEL, chat_reasoner.tokenizer(), monitor=monitor).models["guard"]
    assert found == hashlib.sha256((folder / "probe.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("reads_states", [True, False])
def test_records_say_whether_the_monitor_read_what_was_injected(tmp_path: Path, reads_states: bool) -> None:
    monitor = ProbeMonitor(make()) if reads_states else ConstantMonitor(-1.0)
    # Everything fires, so that every row has injected tokens.
    defense = SafeThinkConfig(threshold=1.0, max_steered_steps=1, max_resamples=1)
    guarded = SafeThink(MODEL, chat_reasoner.tokenizer(), monitor=monitor, defense=defense, limits=LIMITS)
    (tmp_path / "p.jsonl").write_text('{"prompt": "How do I heat it?"}')
    config = EvalConfig(
        run=RunConfig(reasoner=ReasonerConfig(path="tiny"), limits=LIMITS),
        benchmarks=(JsonlBenchmarkConfig(path=str(tmp_path / "p.jsonl"), prompts="harmful"),),
        rows=(RowConfig(name="steered", defense=defense), RowConfig(name="undefended", defense=NoneConfig())),
        judge="refusal",
    )
    loaded = [benchmarks.load(each, config.world) for each in config.benchmarks]
    table = [
        TableRow("steered", defense, defenses.build(defense), guarded.prefix.prefixes),
        TableRow("undefended", NoneConfig(), defenses.build(NoneConfig())),
    ]
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        execution = Execution(config, guarded, RefusalJudge(), writer, {})
        execution.run(list(jobs.guarded(table, loaded, 1)), "running")
    found = {record.row: record for record in read(tmp_path / "records.jsonl")}
    assert found["steered"].forced_tokens > 0
    assert found["steered"].monitor_read_injected == reads_states
    assert not found["undefended"].monitor_read_injected


def test_bad_folders_are_one_line_on_the_command_line(tmp_path: Path, folder: Path, capsys) -> None:
    MODEL.save_pretrained(tmp_path / "model")
    chat_reasoner.tokenizer().save_pretrained(tmp_path / "model")
    run = tmp_path / "run.yaml"
    capsys.readouterr()

    def generate(path: Path) -> tuple[int, str]:
        run.write_text(
            json.dumps(
                {
                    "reasoner": {"path": str(tmp_path / "model"), "dtype": "float64"},
                    "monitor": {"kind": "probe", "path": str(path)},
                    "limits": LIMITS.model_dump(),
                }
            )
        )
        status = PROGRAM.main(["generate", str(run), "how are you?"])
        return status, capsys.readouterr().err

    assert generate(folder) == (0, "")
    (folder / "probe.json").unlink()
    for status, err in (generate(folder), generate(tmp_path / "nowhere")):
        assert (status, err.count("\n")) == (2, 1)
        assert "no probe at" in err
