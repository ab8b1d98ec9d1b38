"""Which outputs a defense leaves as the monitor watched them."""

from __future__ import annotations

import pytest

from safethink import defenses
from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.evaluation.jobs import Job
from safethink.evaluation.records import Key, Record
from safethink.prompts import Prompt

LATE = (0.5, 0.4, 0.3, -0.9)
"""Scores of a trace that violates at its fourth step, where SafeThink steers no more."""


def watched(*scores: float, answer: tuple[float, ...] = (), note: str = "") -> Record:
    return Record(
        phase="watch", row="watch", benchmark="mine", prompt="p", sample=0, outcome="harmful", step_scores=scores,
        answer_scores=answer, answer="So be it.", monitor_calls=len(scores), note=note,
    )  # fmt: skip


def job(defense: DefenseConfig) -> Job:
    key = Key("guarded", "mine", "mine", "p", 0)
    rule = defenses.build(defense)
    return Job(key, Prompt.from_text("x", id="p"), rule, injected="ab", transferred=True, defense=defense)


@pytest.mark.parametrize("defense", [GuardRefuseConfig(), ResampleOnlyConfig(), SafeThinkConfig()])
def test_an_output_above_the_threshold_stands_under_the_row_s_own_name(defense: DefenseConfig) -> None:
    before = watched(0.5, 0.0)
    found = job(defense).undisturbed(before)
    assert found == before.replace(phase="guarded", row="mine", injected="ab", transferred=True)


@pytest.mark.parametrize(
    ("defense", "before"),
    [
        (SafeThinkConfig(), watched(0.5, -0.1)),
        (SafeThinkConfig(threshold=0.6), watched(0.5, 0.7)),
        (SafeThinkConfig(max_steered_steps=4), watched(*LATE)),
        (SafeThinkConfig(), watched(0.5, answer=(-0.1,))),
        (SafeThinkConfig(), watched(note="empty")),
        (SafeThinkConfig(monitor_answer=True), watched(0.5)),
        (ResampleOnlyConfig(), watched(-0.1)),
        (GuardRefuseConfig(), watched(*LATE)),
        (GuardRefuseConfig(monitor_answer=True), watched(0.5)),
        (NoneConfig(), watched(0.5)),
        (AlwaysConfig(), watched(0.5)),
    ],
)
def test_one_that_the_defense_acts_on_or_that_it_does_not_watch_is_generated(
    defense: DefenseConfig, before: Record
) -> None:
    assert job(defense).undisturbed(before) is None


@pytest.mark.parametrize("defense", [SafeThinkConfig(), ResampleOnlyConfig(), SafeThinkConfig(max_steered_steps=0)])
def test_a_violation_where_nothing_is_steered_disturbs_nothing(defense: DefenseConfig) -> None:
    assert job(defense).undisturbed(watched(*LATE)) is not None


def test_where_nothing_is_steered_nothing_of_the_answer_is_either() -> None:
    assert job(SafeThinkConfig(max_steered_steps=0)).undisturbed(watched(-0.1, answer=(-0.1,))) is not None
