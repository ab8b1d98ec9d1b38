"""On the shipped reasoner: guarding changes nothing where nothing fires, and rows never see their neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from safethink.config import (
    ConstantMonitorConfig,
    GuardMonitorConfig,
    LimitsConfig,
    MonitorConfig,
    NoneConfig,
    ReasonerConfig,
    RunConfig,
    SafeThinkConfig,
    SamplingConfig,
)
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.runtime.result import Result
from safethink.testbed import folders
from safethink.testbed.prompts import draw

pytestmark = pytest.mark.slow

MAX_NEW_TOKENS = 200
NEVER_FIRES = ConstantMonitorConfig(value=1.0)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    kinds = ("jailbreak", "harmful", "harmless", "borderline")
    by_kind = [draw(kind, "test", 13) for kind in kinds]
    return [prompt for some in zip(*by_kind, strict=True) for prompt in some][:50]


def guarded(temperature: float, monitor: MonitorConfig = NEVER_FIRES) -> SafeThink:
    return SafeThink.from_config(
        RunConfig(
            reasoner=ReasonerConfig(path="testbed", dtype="float64"),
            monitor=monitor,
            defense=SafeThinkConfig(),
            sampling=SamplingConfig(temperature=temperature),
            limits=LimitsConfig(max_trace_tokens=MAX_NEW_TOKENS),
            batch_size=32,
        )
    )


def written(result: Result) -> tuple[int, ...]:
    return result.trace_ids + result.answer_ids


def test_the_reasoner_loads_as_any_model_does() -> None:
    model = AutoModelForCausalLM.from_pretrained(folders().reasoner)
    assert model.num_parameters() <= 3_000_000


def test_a_monitor_that_never_fires_leaves_greedy_generation_as_it_is(prompts: list[Prompt]) -> None:
    runner = guarded(temperature=0.0)
    for result in runner.run(prompts):
        model: Any = runner.model
        plain = model.generate(
            torch.tensor([result.prompt_ids]), do_sample=False, temperature=None, max_new_tokens=MAX_NEW_TOKENS
        )
        assert tuple(plain[0, len(result.prompt_ids) :].tolist()) == written(result)
        assert result.closed


@pytest.mark.parametrize("monitor", [NEVER_FIRES, GuardMonitorConfig()], ids=lambda monitor: monitor.kind)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_prompt_alone_gives_what_it_gives_in_a_batch_of_32(
    prompts: list[Prompt], temperature: float, monitor: MonitorConfig
) -> None:
    runner = guarded(temperature, monitor)
    together = runner.run(prompts[:32])
    alone = [runner.run([prompt])[0] for prompt in prompts[:32]]
    assert [written(result) for result in alone] == [written(result) for result in together]
    assert any(result.interventions for result in together) == isinstance(monitor, GuardMonitorConfig)


def test_undefended_and_never_firing_are_the_same_tokens(prompts: list[Prompt]) -> None:
    runner = guarded(temperature=1.0)
    bare = runner.variant(defense=NoneConfig()).run(prompts[:20])
    watched = runner.run(prompts[:20])
    assert [written(result) for result in bare] == [written(result) for result in watched]
