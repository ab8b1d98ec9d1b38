"""On the shipped reasoner: guarding changes nothing where nothing fires, and rows never see their neighbours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from safethink.config import (
    ConstantMonitorConfig,
    LimitsConfig,
    NoneConfig,
    ReasonerConfig,
    RunConfig,
    SafeThinkConfig,
    SamplingConfig,
)
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.result import Result
from safethink.testbed import folders
from safethink.testbed.prompts import draw

MAX_NEW_TOKENS = 200


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    kinds = ("jailbreak", "harmful", "harmless", "borderline", "jailbreak")
    return [prompt for kind in kinds for prompt in draw(kind, "test", 20)][:50]


def guarded(temperature: float, batch_size: int = 32) -> SafeThink:
    return SafeThink.from_config(
        RunConfig(
            reasoner=ReasonerConfig(path="testbed", dtype="float64"),
            monitor=ConstantMonitorConfig(value=1.0),
            defense=SafeThinkConfig(),
            sampling=SamplingConfig(temperature=temperature),
            limits=LimitsConfig(max_trace_tokens=MAX_NEW_TOKENS),
            batch_size=batch_size,
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


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_prompt_alone_gives_what_it_gives_in_a_batch_of_32(prompts: list[Prompt], temperature: float) -> None:
    runner = guarded(temperature)
    together = runner.run(prompts[:32])
    alone = [runner.run([prompt])[0] for prompt in prompts[:32]]
    assert [written(result) for result in alone] == [written(result) for result in together]


def test_undefended_and_never_firing_are_the_same_tokens(prompts: list[Prompt]) -> None:
    runner = guarded(temperature=1.0)
    bare = runner.variant(defense=NoneConfig()).run(prompts[:20])
    watched = runner.run(prompts[:20])
    assert [written(result) for result in bare] == [written(result) for result in watched]
