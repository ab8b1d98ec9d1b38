"""How a reasoner is loaded: quantised, spread over devices, compiled; each gives a model that decodes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from safethink.config import ConstantMonitorConfig, LimitsConfig, ReasonerConfig, RunConfig, SamplingConfig
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.kv_cache.choose import store_kind
from safethink.models.loading import load
from safethink.runtime.result import Result
from safethink.testbed.prompts import draw
from tests.support import tiny_reasoner

PROMPTS = draw("harmless", "test", 4)


def run(reasoner: ReasonerConfig, num_prompts: int = len(PROMPTS)) -> list[Result]:
    config = RunConfig(
        reasoner=reasoner,
        monitor=ConstantMonitorConfig(),
        sampling=SamplingConfig(temperature=0.0),
        limits=LimitsConfig(max_step_tokens=40, max_trace_tokens=80),
    )
    return SafeThink.from_config(config).run(PROMPTS[:num_prompts])


@pytest.fixture(scope="module")
def plain() -> list[Result]:
    return run(ReasonerConfig(path="testbed"))


def test_spread_over_devices_it_says_the_same(plain: list[Result]) -> None:
    spread = run(ReasonerConfig(path="testbed", device_map="auto"))
    assert [result.trace_ids for result in spread] == [result.trace_ids for result in plain]


def saved(folder: Path, hidden_size: int, layers: int) -> str:
    """A tiny reasoner in a folder, as a user has one."""
    tiny_reasoner.model(hidden_size=hidden_size, layers=layers).save_pretrained(folder)
    tiny_reasoner.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["8bit", "4bit"])
def test_quantised_it_is_smaller_and_decodes_as_its_own_plain_forward(tmp_path: Path, quantization) -> None:
    path = saved(tmp_path, hidden_size=128, layers=2)
    small = load(ReasonerConfig(path=path, quantization=quantization)).model
    assert store_kind(small) == "in lanes"
    assert small.get_memory_footprint() < load(ReasonerConfig(path=path)).model.get_memory_footprint()
    for result in run(ReasonerConfig(path=path, quantization=quantization)):
        ids = result.prompt_ids + result.trace_ids
        with torch.inference_mode():
            expected = small(torch.tensor([ids])).logits[0, len(result.prompt_ids) - 1 : -1].argmax(-1)
        # Rounded products depend a little on how many rows there are, which can decide between two equal tokens.
        same = sum(int(ours == theirs) for ours, theirs in zip(result.trace_ids, expected.tolist(), strict=True))
        assert same >= 0.9 * len(result.trace_ids)


@pytest.mark.slow
def test_compiled_it_says_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path, hidden_size=32, layers=1)
    # This backend traces as any other does, and then runs the graph as it is.
    (compiled,) = run(ReasonerConfig(path=path, compile_backend="eager"), num_prompts=1)
    (expected,) = run(ReasonerConfig(path=path), num_prompts=1)
    assert compiled.trace_ids == expected.trace_ids


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no such backend of torch.compile: 'fast'; there are .*inductor"):
        load(ReasonerConfig(path="testbed", compile_backend="fast"))


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False, raising=False
    )
    monkeypatch.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: False)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="need the extra 'quantized'"):
        load(ReasonerConfig(path="testbed", quantization="4bit"))


def test_code_of_a_repository_does_not_run_unasked(tmp_path: Path) -> None:
    tiny_reasoner.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}')
    (tmp_path / "own.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(FileNotFoundError, match="contains custom code"):
        load(ReasonerConfig(path=str(tmp_path)))


def test_float64_is_float64() -> None:
    assert load(ReasonerConfig(path="testbed", dtype="float64")).model.dtype is torch.float64
