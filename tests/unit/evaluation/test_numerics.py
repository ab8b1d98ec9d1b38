"""A run says with which precision, attention and batch it was made, and is paired with nothing unlike it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from safethink.config import (
    ConstantMonitorConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    LimitsConfig,
    NoneConfig,
    ReasonerConfig,
    RowConfig,
    RunConfig,
)
from safethink.errors import ConfigError, RecordError
from safethink.evaluation import folder, numerics, runner
from safethink.evaluation.numerics import NUMERICS, RunNumerics
from safethink.evaluation.summary import Summary
from safethink.guarded import SafeThink
from safethink.models.numerics import Numerics
from safethink.monitors.combinations import MinMonitor
from safethink.monitors.function import ConstantMonitor
from safethink.monitors.guards.generative import GuardMonitor
from tests.support import chat_reasoner, tiny_guard

TOKENIZER = chat_reasoner.tokenizer()
SINGLE = Numerics(dtype="float32", attention="sdpa", device="cpu")
HALF = SINGLE.replace(dtype="bfloat16")


def made_with(batch_size: int = 64, **models: Numerics) -> RunNumerics:
    return RunNumerics(models=models, batch_size=batch_size, torch="2", transformers="5")


def written(path: Path, settings: RunNumerics | None) -> Path:
    path.mkdir()
    numerics.claim(path, settings, has_begun=False)
    return path


@pytest.mark.parametrize(("dtype", "attention"), [(torch.float32, "sdpa"), (torch.bfloat16, "eager")])
def test_what_auto_became_is_recorded(dtype: torch.dtype, attention: str) -> None:
    model = chat_reasoner.model(dtype=dtype)
    model.set_attn_implementation(attention)
    expected = Numerics(dtype=str(dtype).removeprefix("torch."), attention=attention, device="cpu")
    assert SafeThink(model, TOKENIZER, prefix=None, defense=NoneConfig()).numerics == {"reasoner": expected}


def test_every_model_of_a_monitor_has_its_settings() -> None:
    guard = GuardMonitor(tiny_guard.model(), tiny_guard.tokenizer())
    guarded = SafeThink(chat_reasoner.model(), TOKENIZER, monitor=MinMonitor([ConstantMonitor(), guard, guard]))
    assert list(guarded.numerics) == ["reasoner", "guard", "guard 2"]


@pytest.mark.parametrize(
    ("begun", "now", "said"),
    [
        (made_with(reasoner=SINGLE), made_with(reasoner=HALF), "reasoner.dtype is 'float32' there and 'bfloat16' here"),
        (
            made_with(reasoner=SINGLE, guard=SINGLE),
            made_with(reasoner=SINGLE, guard=SINGLE.replace(attention="eager")),
            "guard.attention is 'sdpa' there and 'eager' here",
        ),
        (made_with(8, reasoner=HALF), made_with(64, reasoner=HALF), "batch_size is 8 there and 64 here"),
        (made_with(8, reasoner=SINGLE, guard=HALF), made_with(9, reasoner=SINGLE, guard=HALF), "batch_size is 8 there"),
    ],
)
def test_unlike_settings_are_refused_with_the_key_and_both_values(
    tmp_path: Path, begun: RunNumerics, now: RunNumerics, said: str
) -> None:
    one = written(tmp_path / "one", begun)
    with pytest.raises(ConfigError, match=said):
        numerics.claim(one, now, has_begun=True)
    with pytest.raises(ConfigError, match=rf"one/numerics\.json .*{said}.*/other cannot be paired with it"):
        numerics.refuse_unlike(one, written(tmp_path / "other", now))


@pytest.mark.parametrize(
    ("begun", "now"),
    [
        (None, made_with(reasoner=HALF)),
        (made_with(reasoner=HALF), None),
        (made_with(8, reasoner=SINGLE), made_with(64, reasoner=SINGLE)),
        (made_with(reasoner=SINGLE), made_with(reasoner=SINGLE.replace(device="cuda (NVIDIA H200)"))),
        (made_with(guard=SINGLE), made_with(reasoner=HALF, guard=SINGLE)),
    ],
)
def test_what_is_not_known_or_changes_nothing_is_no_difference(
    tmp_path: Path, begun: RunNumerics | None, now: RunNumerics | None
) -> None:
    one = written(tmp_path / "one", begun)
    assert numerics.claim(one, now, has_begun=True) == begun, "what earlier records were made with"
    numerics.refuse_unlike(one, written(tmp_path / "other", now))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / NUMERICS).write_text("{")
    with pytest.raises(RecordError, match=r"numerics\.json: invalid JSON"):
        numerics.read(tmp_path)
    (tmp_path / NUMERICS).write_text('{"models": {}, "batch_size": "many", "transformers": "5"}')
    with pytest.raises(RecordError, match=r"numerics\.json: 2 mistakes: batch_size: .*; torch: missing"):
        numerics.read(tmp_path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvalConfig:
    prompts = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    prompts.write_text('{"prompt": "add 3"}\n{"prompt": "add 4"}\n')
    run = RunConfig(
        reasoner=ReasonerConfig(path="tiny"),
        monitor=ConstantMonitorConfig(),
        limits=LimitsConfig(max_step_tokens=4, max_trace_tokens=8, max_answer_tokens=4),
        batch_size=2,
    )
    return EvalConfig(
        run=run,
        prefix="text:wait",
        benchmarks=(JsonlBenchmarkConfig(path=str(prompts), prompts="harmless"),),
        rows=(RowConfig(name="undefended", defense=NoneConfig()),),
        forced_samples=0,
        depth_curve=(),
        judge="refusal",
    )


def reasoner(dtype: torch.dtype) -> SafeThink:
    model = chat_reasoner.model(dtype=dtype)
    return SafeThink(model, TOKENIZER, monitor=lambda prompt, trace: 0.0, prefix="text:wait", defense=NoneConfig())


def evaluate(config: EvalConfig, out: Path, dtype: torch.dtype) -> Summary:
    return runner.evaluate(config, out, reasoner(dtype))


def test_a_summary_says_it_and_a_run_goes_on_in_the_same_precision_alone(config: EvalConfig, tmp_path: Path) -> None:
    summary = evaluate(config, tmp_path / "run", torch.float32)
    assert summary.numerics is not None
    assert summary.numerics.models == {"reasoner": SINGLE}
    assert summary.numerics.batch_size == 2
    assert "reasoner: float32, attention" in (tmp_path / "run" / folder.REPORT).read_text()
    assert evaluate(config, tmp_path / "run", torch.float32) == summary
    with pytest.raises(ConfigError, match=r"dtype is 'float32' there and 'bfloat16' here; use another --out"):
        evaluate(config, tmp_path / "run", torch.bfloat16)


def test_shared_records_of_another_precision_are_refused(config: EvalConfig, tmp_path: Path) -> None:
    evaluate(config, tmp_path / "shared", torch.float32)
    with pytest.raises(ConfigError, match=r"shared/numerics\.json .*reasoner.dtype is 'float32' there and 'bfloat16'"):
        runner.gather(config, tmp_path / "own", reasoner(torch.bfloat16), tmp_path / "shared")


def test_a_run_of_before_they_were_written_down_goes_on_and_says_nothing(config: EvalConfig, tmp_path: Path) -> None:
    evaluate(config, tmp_path / "run", torch.float32)
    old = shutil.copytree(tmp_path / "run", tmp_path / "old")
    (old / NUMERICS).unlink()
    assert evaluate(config, old, torch.float32).numerics is None
    assert not (old / NUMERICS).exists()
