"""Monitors around the shipped reasoner: combinations decide as their members do."""

from __future__ import annotations

from itertools import pairwise

import pytest

from safethink.config import (
    CascadeMonitorConfig,
    ConstantMonitorConfig,
    GuardMonitorConfig,
    KeywordMonitorConfig,
    LimitsConfig,
    MinMonitorConfig,
    MonitorConfig,
    OracleMonitorConfig,
    ReasonerConfig,
    RunConfig,
    SafeThinkConfig,
)
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.runtime.result import Result
from safethink.testbed.prompts import draw

pytestmark = pytest.mark.slow

ORACLE = OracleMonitorConfig(f1=0.8, drifted_share=0.3, seed=5)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return [*draw("jailbreak", "test", 6), *draw("harmless", "test", 2)]


def run(monitor: MonitorConfig, prompts: list[Prompt], threshold: float = 0.0) -> list[Result]:
    config = RunConfig(
        reasoner=ReasonerConfig(path="testbed"),
        monitor=monitor,
        defense=SafeThinkConfig(threshold=threshold),
        limits=LimitsConfig(max_trace_tokens=120),
    )
    return SafeThink.from_config(config).run(prompts)


@pytest.mark.parametrize(
    ("combined", "alone"),
    [
        (MinMonitorConfig(members=(ConstantMonitorConfig(), ORACLE)), ORACLE),
        (CascadeMonitorConfig(members=(ConstantMonitorConfig(value=0.0), GuardMonitorConfig())), GuardMonitorConfig()),
        (CascadeMonitorConfig(members=(ORACLE, GuardMonitorConfig())), ORACLE),
    ],
    ids=["min", "unsure cascade", "sure cascade"],
)
def test_a_combination_decides_as_the_member_that_counts(
    combined: MonitorConfig, alone: MonitorConfig, prompts: list[Prompt]
) -> None:
    together, single = run(combined, prompts), run(alone, prompts)
    assert [result.trace_ids for result in together] == [result.trace_ids for result in single]
    assert [len(result.interventions) for result in together] == [len(result.interventions) for result in single]
    assert any(result.interventions for result in single)


def test_the_keyword_baseline_fires_until_something_is_refused(prompts: list[Prompt]) -> None:
    never = run(KeywordMonitorConfig(phrases=("a phrase that the world does not know",)), prompts)
    assert all(result.interventions for result in never)
    always = run(KeywordMonitorConfig(absent=1.0), prompts)
    assert not any(result.interventions for result in always)


def test_scores_in_a_row_are_those_of_the_trace_that_stands(prompts: list[Prompt]) -> None:
    single, persistent = (run(GuardMonitorConfig(persistence=times), prompts, -1.0) for times in (1, 2))
    for once, lasting in zip(single, persistent, strict=True):
        assert lasting.trace_ids == once.trace_ids
        in_a_row = [1.0, *(max(pair) for pair in pairwise(once.verdict.step_scores))]
        assert list(lasting.verdict.step_scores) == in_a_row
    guarded = run(GuardMonitorConfig(persistence=2), prompts)
    at_once = run(GuardMonitorConfig(), prompts)
    assert 0 < sum(len(each.interventions) for each in guarded) < sum(len(each.interventions) for each in at_once)
    assert all(intervention.step > 0 for each in guarded for intervention in each.interventions)
