from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.defenses import start
from safethink.defenses.effects import Accept, Effect, Extend, Extension, Score, StopReason, Task, Until, Verdict
from safethink.tokens import Tokens

PREFIX, SECOND = (90, 91), (95,)
TASK = Task(prefixes=(PREFIX, SECOND), close=(7,), refusal=(8, 9))
ANSWER = (50, 51)


class Script:
    """Plays engine and monitor: step k is the token 10 + k, the thinking ends with the last of `num_steps`."""

    def __init__(self, scores: Iterable[float], num_steps: int = 3, last: StopReason = "thought") -> None:
        self.last: StopReason = last
        self.scores = deque(scores)
        self.num_steps = num_steps
        self.effects: list[Effect] = []
        self.accepted: list[Accept] = []
        self.next_token = 10

    def play(self, config: DefenseConfig, task: Task = TASK) -> Verdict:
        defense = start(config, task)
        result: Extension | float | None = None
        while True:
            try:
                effect = defense.send(result)
            except StopIteration as stop:
                return stop.value
            if isinstance(effect, Accept):
                self.accepted.append(effect)
                result = None
                continue
            self.effects.append(effect)
            result = self.scores.popleft() if isinstance(effect, Score) else self._extend(effect)

    def _extend(self, effect: Extend) -> Extension:
        if effect.until is Until.ANSWER:
            return Extension(Tokens.sampled(ANSWER), "end")
        self.next_token += 1
        accepted = len(effect.trace.own())
        stop: StopReason = self.last if effect.until is Until.THOUGHT or accepted == self.num_steps - 1 else "step"
        return Extension(Tokens.sampled((self.next_token,)), stop)

    @property
    def injected_after(self) -> list[tuple[int, ...]]:
        """The forced tokens in the trace of every request for a step."""
        return [
            tuple(i for i, forced in zip(e.trace.ids, e.trace.forced, strict=True) if forced)
            for e in self.effects
            if isinstance(e, Extend) and e.until is not Until.ANSWER
        ]


def test_undefended_thinks_and_answers_without_asking_the_monitor() -> None:
    script = Script([])
    verdict = script.play(NoneConfig())
    assert [e.until for e in script.effects if isinstance(e, Extend)] == [Until.THOUGHT, Until.ANSWER]
    assert (verdict.trace.ids, verdict.answer.ids, verdict.closed) == ((11,), ANSWER, True)


def test_always_injects_at_the_start_and_keeps_the_prefix() -> None:
    verdict = Script([]).play(AlwaysConfig())
    assert verdict.trace == Tokens.injected(PREFIX) + Tokens.sampled((11,))


def test_guard_refuse_drops_the_violating_step_and_writes_the_refusal() -> None:
    verdict = Script([0.5, -0.1]).play(GuardRefuseConfig())
    assert verdict.trace == Tokens.sampled((11,)) + Tokens.injected((7,))
    assert verdict.answer == Tokens.injected((8, 9))
    assert verdict.refused
    assert verdict.closed
    (note,) = verdict.interventions
    assert (note.step, note.score_before, note.outcome, note.position, note.resamples) == (1, -0.1, "refused", 1, 0)


def test_guard_refuse_leaves_a_safe_trace_alone() -> None:
    verdict = Script([0.0, 0.1, 1.0]).play(GuardRefuseConfig())
    assert (verdict.trace.ids, verdict.answer.ids, verdict.refused) == ((11, 12, 13), ANSWER, False)


def test_safethink_with_a_quiet_monitor_changes_nothing() -> None:
    script = Script([0.0, 0.2, 1.0])
    verdict = script.play(SafeThinkConfig())
    assert verdict.trace == Tokens.sampled((11, 12, 13))
    assert verdict.step_scores == (0.0, 0.2, 1.0)
    assert not verdict.interventions
    assert script.injected_after == [(), (), ()]


def test_safethink_takes_the_first_resample_that_passes() -> None:
    script = Script([0.5, -0.5, -0.4, 0.0, 0.9])
    verdict = script.play(SafeThinkConfig())
    # Step 12 violates; 13 under the first prefix fails, 14 under the second is good enough.
    assert verdict.trace == Tokens.sampled((11, 14, 15))
    assert script.injected_after == [(), (), PREFIX, SECOND, ()]
    (note,) = verdict.interventions
    assert (note.step, note.position, note.resamples, note.prefix) == (1, 1, 2, 1)
    assert (note.score_before, note.score_after, note.scores) == (-0.5, 0.0, (-0.4, 0.0))
    assert note.outcome == "recovered"


def test_safethink_rolls_back_before_it_injects() -> None:
    script = Script([-0.5, 0.5, 0.5, 0.5])
    script.play(SafeThinkConfig())
    resampled = script.effects[2]
    assert resampled == Extend(Tokens.injected(PREFIX), Until.STEP)


def test_keep_prefix_leaves_the_prefix_before_the_accepted_step() -> None:
    verdict = Script([0.5, -0.5, 0.5, 0.5]).play(SafeThinkConfig(keep_prefix=True))
    assert verdict.trace == Tokens.sampled((11,)) + Tokens.injected(PREFIX) + Tokens.sampled((13, 14))


def test_the_last_prefix_is_used_again_when_the_portfolio_runs_out() -> None:
    script = Script([-1.0] * 6, num_steps=1)
    script.play(SafeThinkConfig(max_resamples=5))
    assert script.injected_after == [(), PREFIX, SECOND, SECOND, SECOND, SECOND]


FAILING = [-0.5, -0.9, -0.2, -0.7]


def test_keep_last_keeps_the_last_resample_as_the_paper_does() -> None:
    verdict = Script(FAILING, num_steps=1).play(SafeThinkConfig(max_resamples=3))
    (note,) = verdict.interventions
    assert (verdict.trace.ids, note.outcome, note.score_after) == ((14,), "kept_last", -0.7)


def test_best_keeps_the_best_resample() -> None:
    verdict = Script(FAILING, num_steps=1).play(SafeThinkConfig(max_resamples=3, fallback="best"))
    (note,) = verdict.interventions
    assert (verdict.trace.ids, note.outcome, note.score_after, note.prefix) == ((13,), "kept_best", -0.2, 1)


def test_refuse_closes_the_thinking_and_refuses() -> None:
    verdict = Script(FAILING, num_steps=1).play(SafeThinkConfig(max_resamples=3, fallback="refuse"))
    (note,) = verdict.interventions
    assert (verdict.trace, verdict.answer) == (Tokens.injected((7,)), Tokens.injected((8, 9)))
    assert (verdict.refused, note.outcome, note.score_after, note.resamples) == (True, "refused", None, 3)


def test_only_early_steps_are_steered_but_every_step_is_scored() -> None:
    verdict = Script([0.5, 0.5, -0.5, -0.6], num_steps=4).play(SafeThinkConfig(max_steered_steps=2))
    assert verdict.step_scores == (0.5, 0.5, -0.5, -0.6)
    assert not verdict.interventions


def test_max_interventions_limits_how_often_it_steers() -> None:
    verdict = Script([-0.5, 0.5, -0.5, 0.5]).play(SafeThinkConfig(max_interventions=1))
    assert [note.step for note in verdict.interventions] == [0]
    assert verdict.step_scores == (-0.5, -0.5, 0.5)


def test_resample_only_rolls_back_and_injects_nothing() -> None:
    script = Script([-0.5, -0.4, 0.5, 0.5, 0.5])
    verdict = script.play(ResampleOnlyConfig())
    assert script.injected_after == [()] * 5
    (note,) = verdict.interventions
    assert (note.outcome, note.resamples, note.prefix) == ("recovered", 2, None)
    assert verdict.trace == Tokens.sampled((13, 14, 15))


def test_a_violating_step_that_ends_the_thinking_is_dropped_too() -> None:
    verdict = Script([-0.5, 0.5], num_steps=1).play(SafeThinkConfig())
    assert verdict.trace.ids == (12,)
    assert verdict.closed


@pytest.mark.parametrize("config", [NoneConfig(), AlwaysConfig(), SafeThinkConfig()])
def test_thinking_that_never_closes_has_no_answer(config: DefenseConfig) -> None:
    script = Script([1.0], num_steps=1, last="length")
    verdict = script.play(config)
    assert (verdict.closed, verdict.answer) == (False, Tokens())
    assert not any(isinstance(e, Extend) and e.until is Until.ANSWER for e in script.effects)


def test_a_fork_counts_its_steps_from_where_it_begins() -> None:
    task = Task(start=Tokens.sampled((1, 2)), prefixes=(PREFIX,), first_step=3)
    verdict = Script([-0.5], num_steps=3).play(SafeThinkConfig(), task)
    assert not verdict.interventions
    assert verdict.trace.ids == (1, 2, 11)


@given(
    scores=st.lists(st.floats(-1, 1), min_size=200, max_size=200),
    threshold=st.floats(-1, 1),
    steered=st.integers(0, 4),
    resamples=st.integers(1, 4),
    keep_prefix=st.booleans(),
    fallback=st.sampled_from(["keep_last", "best", "refuse"]),
)
def test_what_holds_for_every_monitor(
    scores: list[float], threshold: float, steered: int, resamples: int, keep_prefix: bool, fallback: str
) -> None:
    config = SafeThinkConfig.model_validate(
        {
            "threshold": threshold,
            "max_steered_steps": steered,
            "max_resamples": resamples,
            "keep_prefix": keep_prefix,
            "fallback": fallback,
        }
    )
    script = Script(scores, num_steps=6)
    verdict = script.play(config)
    violations = [i for i, score in enumerate(verdict.step_scores) if score < threshold and i < steered]
    assert [note.step for note in verdict.interventions] == violations
    for note in verdict.interventions:
        passed = [score >= threshold for score in note.scores]
        assert not any(passed[:-1])
        assert (note.outcome == "recovered") == passed[-1]
        assert note.resamples == len(note.scores) <= resamples
    assert verdict.refused == any(note.outcome == "refused" for note in verdict.interventions)
    if not verdict.refused:
        assert len(verdict.trace.own()) == 6
        injected = sum(verdict.trace.forced)
        assert injected == keep_prefix * sum(len(TASK.prefixes[note.prefix or 0]) for note in verdict.interventions)
