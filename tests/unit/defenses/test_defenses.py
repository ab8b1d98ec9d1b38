from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
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
from safethink.seeds import stable_seed
from safethink.tokens import Tokens

PREFIX, SECOND = (90, 91), (95,)
TASK = Task(prefixes=(PREFIX, SECOND), close=(7,), refusal=(8, 9))
ANSWER = (50, 51)


class Script:
    """Plays engine and monitor: step k is the token 10 + k, the thinking ends with the last of `num_steps`.

    An answer that is asked for step by step has `num_answer_steps` of them, the tokens from 50 on; one that is asked
    for as a whole opens the thinking again behind its first token where `reopens`. The steps that are tokens of
    `empties` say nothing, and close the thinking or end the answer at once.
    """

    def __init__(
        self,
        scores: Iterable[float],
        num_steps: int = 3,
        last: StopReason = "thought",
        num_answer_steps: int = 2,
        reopens: bool = False,
        unthought: bool = False,
        empties: Iterable[int] = (),
    ) -> None:
        self.last: StopReason = last
        self.num_answer_steps = num_answer_steps
        self.reopens = reopens
        self.unthought = unthought
        self.empties = frozenset(empties)
        self.next_answer_token = 49
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
        if effect.until is Until.ANSWER and self.reopens and not len(effect.answer):
            return Extension(Tokens.sampled(ANSWER[:1]), "reopened")
        if effect.until is Until.ANSWER:
            return Extension(Tokens.sampled(ANSWER[len(effect.answer) :]), "end")
        if effect.until is Until.ANSWER_STEP:
            self.next_answer_token += 1
            empty = self.next_answer_token in self.empties
            is_last = empty or len(effect.answer.own()) == self.num_answer_steps - 1
            return Extension(Tokens.sampled((self.next_answer_token,)), "end" if is_last else "step", empty=empty)
        self.next_token += 1
        accepted, empty = len(effect.trace.own()), self.next_token in self.empties
        is_last = empty or effect.until is Until.THOUGHT or accepted == self.num_steps - 1
        stop: StopReason = self.last if is_last else "step"
        unthought = stop == "thought" and self.unthought
        return Extension(Tokens.sampled((self.next_token,)), stop, unthought, empty)

    @property
    def injected_after(self) -> list[tuple[int, ...]]:
        """The forced tokens in the trace of every request for a step."""
        return [
            tuple(i for i, forced in zip(e.trace.ids, e.trace.forced, strict=True) if forced)
            for e in self.effects
            if isinstance(e, Extend) and e.until is not Until.ANSWER
        ]

    @property
    def asked(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """The trace and the answer of every request for tokens."""
        return [(e.trace.ids, e.answer.ids) for e in self.effects if isinstance(e, Extend)]


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
    assert verdict.trace == Tokens.sampled((11,)) + Tokens.injected(SECOND) + Tokens.sampled((14, 15))
    assert script.injected_after == [(), (), PREFIX, SECOND, SECOND]
    (note,) = verdict.interventions
    assert (note.step, note.position, note.resamples, note.prefix) == (1, 1, 2, 1)
    assert (note.score_before, note.score_after, note.scores) == (-0.5, 0.0, (-0.4, 0.0))
    assert note.outcome == "recovered"


def test_safethink_rolls_back_before_it_injects() -> None:
    script = Script([-0.5, 0.5, 0.5, 0.5])
    script.play(SafeThinkConfig())
    resampled = script.effects[2]
    assert resampled == Extend(Tokens.injected(PREFIX), Until.STEP)


def test_the_prefix_stays_before_the_accepted_step_unless_it_is_dropped() -> None:
    kept, dropped = Script([0.5, -0.5, 0.5, 0.5]), Script([0.5, -0.5, 0.5, 0.5])
    verdict = kept.play(SafeThinkConfig())
    assert verdict.trace == Tokens.sampled((11,)) + Tokens.injected(PREFIX) + Tokens.sampled((13, 14))
    assert dropped.play(SafeThinkConfig(keep_prefix=False)).trace == Tokens.sampled((11, 13, 14))
    assert (kept.injected_after, dropped.injected_after) == ([(), (), PREFIX, PREFIX], [(), (), PREFIX, ()])


def test_the_last_prefix_is_used_again_when_the_portfolio_runs_out() -> None:
    script = Script([-1.0] * 6, num_steps=1)
    script.play(SafeThinkConfig(max_resamples=5))
    assert script.injected_after == [(), PREFIX, SECOND, SECOND, SECOND, SECOND]


FAILING = [-0.5, -0.9, -0.2, -0.7]


def test_keep_last_keeps_the_last_resample_as_the_paper_does() -> None:
    verdict = Script(FAILING, num_steps=1).play(SafeThinkConfig(max_resamples=3))
    (note,) = verdict.interventions
    assert (verdict.trace.own(), note.outcome, note.score_after) == ((14,), "kept_last", -0.7)


def test_best_keeps_the_best_resample() -> None:
    verdict = Script(FAILING, num_steps=1).play(SafeThinkConfig(max_resamples=3, fallback="best"))
    (note,) = verdict.interventions
    assert (verdict.trace.own(), note.outcome, note.score_after, note.prefix) == ((13,), "kept_best", -0.2, 1)


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
    assert verdict.trace.own() == (12,)
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


def test_a_resample_that_says_nothing_is_tried_again_with_the_next_prefix() -> None:
    # 11 violates; 12 closes the thinking at once, which passes for want of anything to object to; 13 thinks.
    script = Script([-0.5, 0.9, 0.5, 0.5, 0.5], empties={12})
    verdict = script.play(SafeThinkConfig())
    (note,) = verdict.interventions
    assert (note.outcome, note.resamples, note.empty_resamples, note.prefix) == ("recovered", 2, 1, 1)
    assert note.scores == (0.9, 0.5)
    assert verdict.trace.own() == (13, 14, 15)


@pytest.mark.parametrize(
    ("fallback", "outcome", "trace"),
    [("keep_last", "empty", (13,)), ("rollback", "empty", (13,)), ("best", "empty", (12,)), ("refuse", "refused", ())],
)
def test_tries_that_all_say_nothing_are_no_recovery(fallback: str, outcome: str, trace: tuple[int, ...]) -> None:
    config = SafeThinkConfig.model_validate({"max_resamples": 2, "fallback": fallback})
    verdict = Script([-0.5, 0.9, 0.8], empties={12, 13}).play(config)
    (note,) = verdict.interventions
    assert (note.outcome, note.resamples, note.empty_resamples) == (outcome, 2, 2)
    assert verdict.trace.own() == trace
    assert verdict.refused == (fallback == "refuse")


def test_a_resample_that_says_nothing_may_be_taken_and_is_called_by_its_name() -> None:
    verdict = Script([-0.5, 0.9], empties={12}).play(SafeThinkConfig(retry_empty=False))
    (note,) = verdict.interventions
    assert (note.outcome, note.resamples, note.empty_resamples, note.score_after) == ("empty", 1, 1, 0.9)
    assert verdict.trace.own() == (12,)


def test_a_kept_resample_that_fails_is_no_empty_one_whatever_came_before() -> None:
    verdict = Script([-0.5, 0.9, -0.3, 0.5, 0.5], empties={12}).play(SafeThinkConfig(max_resamples=2))
    (note,) = verdict.interventions
    assert (note.outcome, note.empty_resamples, verdict.trace.own()[:1]) == ("kept_last", 1, (13,))


def test_rollback_drops_more_where_every_resample_says_nothing() -> None:
    verdict = Script([0.5, -0.5, 0.9, 0.5, 0.5, 0.5], empties={13}).play(ROLLBACK.replace(max_resamples=1))
    (note,) = verdict.interventions
    assert (note.outcome, note.dropped_steps, note.empty_resamples) == ("rolled_back", 1, 1)
    assert verdict.trace.own() == (14, 15, 16)


def test_without_a_prefix_too_a_resample_that_says_nothing_is_tried_again() -> None:
    verdict = Script([-0.5, 0.9, 0.5, 0.5, 0.5], empties={12}).play(ResampleOnlyConfig())
    (note,) = verdict.interventions
    assert (note.outcome, note.resamples, note.empty_resamples, note.prefix) == ("recovered", 2, 1, None)


def test_an_answer_that_ends_at_once_is_no_recovery_either() -> None:
    # The first step of the answer, 50, violates; 51 ends it at once, 52 says something.
    script = Script([0.5, 0.5, 0.5, -0.5, 0.9, 0.5, 0.5], empties={51})
    verdict = script.play(SafeThinkConfig(monitor_answer=True))
    (note,) = verdict.interventions
    assert (note.where, note.outcome, note.resamples, note.empty_resamples) == ("answer", "recovered", 2, 1)
    assert verdict.answer.own() == (52, 53)


@pytest.mark.slow
@given(
    scores=st.lists(st.floats(-1, 1), min_size=200, max_size=200),
    empties=st.sets(st.integers(11, 40)),
    resamples=st.integers(1, 4),
    retry=st.booleans(),
    fallback=st.sampled_from(["keep_last", "best", "refuse", "rollback"]),
)
def test_nothing_said_is_never_a_recovery(
    scores: list[float], empties: set[int], resamples: int, retry: bool, fallback: str
) -> None:
    settings = {"max_resamples": resamples, "retry_empty": retry, "fallback": fallback, "max_steered_steps": 9}
    config = SafeThinkConfig.model_validate(settings)
    script = Script(scores, num_steps=6, empties=empties)
    verdict = script.play(config)
    standing = set(verdict.trace.own())
    for note in verdict.interventions:
        assert note.resamples == len(note.scores) <= (2 if note.dropped_steps else 1) * resamples
        assert note.empty_resamples <= note.resamples
        assert note.outcome != "empty" or note.empty_resamples
        assert note.outcome != "empty" or standing & empties or verdict.interventions[-1].dropped_steps
    if verdict.interventions and verdict.interventions[-1].outcome in ("recovered", "rolled_back"):
        place = verdict.interventions[-1].position
        assert verdict.trace[place:].own()[0] not in empties


@pytest.mark.slow
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


ROLLBACK = SafeThinkConfig(max_resamples=2, fallback="rollback", max_steered_steps=9)


def test_rollback_drops_another_step_and_tries_again_there() -> None:
    script = Script([0.5, 0.6, -0.5, -0.4, -0.3, -0.2, 0.1, 0.7], num_steps=3)
    verdict = script.play(ROLLBACK)
    # 13 violates; 14 and 15 fail in its place. 12 is dropped too; 16 fails, 17 passes in its place, 18 ends the trace.
    assert verdict.trace == Tokens.sampled((11,)) + Tokens.injected(SECOND) + Tokens.sampled((17, 18))
    assert script.asked[3:7] == [
        ((11, 12, *PREFIX), ()),
        ((11, 12, *SECOND), ()),
        ((11, *PREFIX), ()),
        ((11, *SECOND), ()),
    ]
    (note,) = verdict.interventions
    assert (note.step, note.dropped_steps, note.position, note.outcome) == (2, 1, 1, "rolled_back")
    assert (note.resamples, note.prefix, note.score_before, note.score_after) == (4, 1, -0.5, 0.1)
    assert note.scores == (-0.4, -0.3, -0.2, 0.1)
    assert verdict.step_scores == (0.5, 0.6, -0.5, 0.7)


def test_rollback_is_spared_where_a_resample_passes() -> None:
    verdict = Script([0.5, -0.5, -0.4, 0.3, 0.5]).play(ROLLBACK)
    (note,) = verdict.interventions
    assert (note.outcome, note.dropped_steps, note.position, note.resamples) == ("recovered", 0, 1, 2)


def test_the_last_is_kept_where_nothing_passes_after_a_rollback_either() -> None:
    verdict = Script([0.5, -0.5, -0.4, -0.3, -0.2, -0.1, 0.5, 0.5]).play(ROLLBACK)
    (note,) = verdict.interventions
    assert (note.outcome, note.dropped_steps, note.position, note.score_after) == ("kept_last", 1, 0, -0.1)
    assert verdict.trace.own() == (16, 17, 18)


def test_a_rollback_goes_no_further_than_the_start() -> None:
    task = Task(start=Tokens.sampled((1, 2)), prefixes=(PREFIX,))
    deep = ROLLBACK.replace(rollback_steps=5)
    verdict = Script([0.5, -0.5, -0.4, -0.3, 0.2, 0.5], num_steps=4).play(deep, task)
    (note,) = verdict.interventions
    assert (note.dropped_steps, note.position, verdict.trace.own()) == (1, 2, (1, 2, 15, 16))


def test_with_nothing_accepted_there_is_nothing_to_roll_back() -> None:
    verdict = Script([-0.5, -0.4, -0.3, 0.5, 0.5]).play(ROLLBACK)
    (note,) = verdict.interventions
    assert (note.outcome, note.dropped_steps, note.resamples, note.score_after) == ("kept_last", 0, 2, -0.3)


def test_a_rollback_takes_the_prefix_that_was_kept_before_a_dropped_step() -> None:
    # Step 1 is put right with the prefix kept; step 2 fails for good, and step 1 goes with its prefix.
    script = Script([0.5, -0.5, 0.5, -0.5, -0.4, -0.3, 0.5, 0.5])
    verdict = script.play(ROLLBACK.replace(keep_prefix=True))
    assert verdict.trace == Tokens.sampled((11,)) + Tokens.injected(PREFIX) + Tokens.sampled((17, 18))
    assert [(note.step, note.position, note.dropped_steps) for note in verdict.interventions] == [(1, 1, 0), (2, 1, 1)]


def test_no_step_is_rolled_back_from_twice() -> None:
    # Every step but the first of the trace fails, whatever is tried.
    script = Script([0.5] + [-0.5] * 99, num_steps=3)
    verdict = script.play(ROLLBACK)
    assert [(note.step, note.dropped_steps) for note in verdict.interventions] == [(1, 1), (1, 0), (2, 1), (2, 0)]


def accepted_in_order(script: Script, verdict: Verdict) -> bool:
    """Whether nothing that was accepted was ever taken back."""
    stages = [(each.trace, each.answer) for each in script.accepted] + [(verdict.trace, verdict.answer)]
    return all(
        late[: len(early)] == early
        for before, after in pairwise(stages)
        for early, late in zip(before, after, strict=True)
    )


def test_what_is_accepted_lags_by_what_may_be_rolled_back() -> None:
    script = Script([0.5] * 4, num_steps=4)
    script.play(SafeThinkConfig(fallback="rollback", rollback_steps=2, max_steered_steps=9))
    assert [len(each.trace) for each in script.accepted] == [0, 0, 1, 4, 4]
    script = Script([0.5] * 4, num_steps=4)
    script.play(SafeThinkConfig(fallback="rollback", rollback_steps=2, max_steered_steps=3))
    assert [len(each.trace) for each in script.accepted] == [0, 0, 3, 4, 4]
    script = Script([0.5] * 4, num_steps=4)
    script.play(SafeThinkConfig())
    assert [len(each.trace) for each in script.accepted] == [1, 2, 3, 4, 4]


@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    steered=st.integers(0, 6),
    resamples=st.integers(1, 3),
    back=st.integers(1, 4),
    most=st.none() | st.integers(0, 3),
    keep_prefix=st.booleans(),
    monitor_answer=st.booleans(),
    fallback=st.sampled_from(["keep_last", "refuse", "rollback"]),
)
def test_what_holds_for_every_rollback(
    seed: int,
    steered: int,
    resamples: int,
    back: int,
    most: int | None,
    keep_prefix: bool,
    monitor_answer: bool,
    fallback: str,
) -> None:
    config = SafeThinkConfig.model_validate(
        {
            "max_steered_steps": steered,
            "max_resamples": resamples,
            "max_interventions": most,
            "rollback_steps": back,
            "keep_prefix": keep_prefix,
            "monitor_answer": monitor_answer,
            "fallback": fallback,
        }
    )
    scores = np.random.default_rng(seed).uniform(-1, 0.6, 2000).tolist()
    script = Script(scores, num_steps=6, num_answer_steps=4)
    verdict = script.play(config)
    assert accepted_in_order(script, verdict)
    assert not any(verdict.answer.forced) or verdict.refused
    for where in ("trace", "answer"):
        notes = [note for note in verdict.interventions if note.where == where]
        rolled_from = [note.step for note in notes if note.dropped_steps]
        assert rolled_from == sorted(set(rolled_from))
        assert most is None or len(notes) <= most
    for note in verdict.interventions:
        assert note.dropped_steps <= min(back, note.step)
        assert note.resamples == len(note.scores) <= (2 if note.dropped_steps else 1) * resamples
        passed = note.scores[-1] >= config.threshold
        assert passed == (note.outcome in ("recovered", "rolled_back"))
        assert (note.outcome == "rolled_back") == (passed and note.dropped_steps > 0)
    if not verdict.refused:
        assert len(verdict.trace.own()) == 6
        assert len(verdict.answer) == (4 if monitor_answer else len(ANSWER))
    assert len(verdict.answer_scores) == 0 or monitor_answer


def papers_loop(
    propose: Callable[[tuple[int, ...]], int],
    reward: Callable[[tuple[int, ...]], float],
    m: int,
    tries: int,
    keeps: bool,
) -> tuple[int, ...]:
    """The paper's pseudo-code, literally, for a thinking of 6 steps; a prefix that `keeps` goes into z before y."""
    z: tuple[int, ...] = ()
    own = lambda ids: tuple(i for i in ids if i not in PREFIX)  # noqa: E731
    for t in range(1, 7):
        y, s = propose(z), ()
        if reward(own((*z, y))) < 0 and t <= m:
            for _ in range(tries):
                y, s = propose((*z, *PREFIX)), PREFIX if keeps else ()
                if reward(own((*z, y))) >= 0:
                    break
        z = (*z, *s, y)
    return z


@given(seed=st.integers(0, 10**6), m=st.integers(0, 6), tries=st.integers(1, 3), keeps=st.booleans())
def test_it_is_the_papers_loop_with_the_prefix_dropped_or_kept(seed: int, m: int, tries: int, keeps: bool) -> None:
    calls = count()

    def propose(ids: tuple[int, ...]) -> int:
        return 100 + stable_seed(seed, next(calls), *ids) % 1000

    def reward(ids: tuple[int, ...]) -> float:
        return stable_seed(seed, "reward", *ids) % 3 - 1.0

    def play() -> tuple[int, ...]:
        config = SafeThinkConfig(max_steered_steps=m, max_resamples=tries, keep_prefix=keeps)
        defense, result = start(config, Task(prefixes=(PREFIX,))), None
        while True:
            effect = defense.send(result)
            match effect:
                case Score():
                    result = reward(effect.trace.own())
                case Extend(until=Until.ANSWER):
                    return effect.trace.ids
                case Extend():
                    stop: StopReason = "thought" if len(effect.trace.own()) == 5 else "step"
                    result = Extension(Tokens.sampled((propose(effect.trace.ids),)), stop)
                case _:
                    result = None

    ours = play()
    calls = count()
    assert ours == papers_loop(propose, reward, m, tries, keeps)


def test_the_monitor_reads_what_is_injected_only_where_that_is_asked_for() -> None:
    for sees in (False, True):
        script = Script([-0.5, 0.5, 0.5, 0.5])
        script.play(SafeThinkConfig(monitor_sees_prefix=sees))
        assert {effect.sees_injected for effect in script.effects if isinstance(effect, Score)} == {sees}


WATCHED = SafeThinkConfig(monitor_answer=True, max_resamples=2)


def test_a_watched_answer_is_scored_step_by_step_behind_the_trace() -> None:
    verdict = Script([0.5, 0.6, 0.7, 0.8], num_steps=2).play(WATCHED)
    assert (verdict.step_scores, verdict.answer_scores) == ((0.5, 0.6), (0.7, 0.8))
    assert (verdict.trace.ids, verdict.answer.ids, verdict.closed) == ((11, 12), (50, 51), True)


def test_a_violation_in_the_answer_is_resampled_and_counted_there() -> None:
    script = Script([0.5, 0.5, 0.5, -0.5, -0.4, 0.3], num_steps=2)
    verdict = script.play(WATCHED.replace(keep_prefix=True), TASK)
    # 51 violates; 52 fails under the first prefix, 53 passes under the second, which does not stay in the answer.
    assert verdict.answer == Tokens.sampled((50, 53))
    assert script.asked[-2:] == [((11, 12), (50, *PREFIX)), ((11, 12), (50, *SECOND))]
    (note,) = verdict.interventions
    assert (note.where, note.step, note.position, note.outcome, note.prefix) == ("answer", 1, 1, "recovered", 1)


def test_late_steps_of_the_answer_are_steered_too_unless_nothing_is() -> None:
    scores = [0.5] * 6 + [-0.5, 0.5]
    verdict = Script(scores, num_steps=1, num_answer_steps=6).play(WATCHED.replace(max_steered_steps=1))
    assert [(note.where, note.step) for note in verdict.interventions] == [("answer", 5)]
    verdict = Script([-0.5] * 9, num_steps=1).play(WATCHED.replace(max_steered_steps=0))
    assert not verdict.interventions
    assert verdict.answer_scores == (-0.5, -0.5)


def test_a_rollback_in_the_answer_stays_in_the_answer() -> None:
    config = WATCHED.replace(fallback="rollback", rollback_steps=9, max_resamples=1)
    verdict = Script([0.5, 0.5, -0.5, -0.4, 0.3, 0.6], num_steps=1).play(config)
    (note,) = verdict.interventions
    assert (note.where, note.step, note.dropped_steps, note.position) == ("answer", 1, 1, 0)
    assert (verdict.trace.ids, verdict.answer.ids) == ((11,), (53, 54))


def test_a_refusal_in_the_answer_follows_what_was_accepted() -> None:
    for config, scores in (
        (WATCHED.replace(fallback="refuse"), [0.5, 0.5, -0.5, -0.4, -0.3]),
        (GuardRefuseConfig(monitor_answer=True), [0.5, 0.5, -0.5]),
    ):
        verdict = Script(scores, num_steps=1).play(config)
        assert verdict.trace == Tokens.sampled((11,))
        assert verdict.answer == Tokens.sampled((50,)) + Tokens.injected((8, 9))
        assert (verdict.refused, verdict.interventions[0].where, verdict.interventions[0].position) == (
            True,
            "answer",
            1,
        )


@pytest.mark.parametrize("config", [SafeThinkConfig(), ResampleOnlyConfig(), GuardRefuseConfig()])
def test_an_answer_is_watched_without_being_asked_where_nothing_was_thought(config: DefenseConfig) -> None:
    verdict = Script([0.5, 0.6, 0.7], num_steps=1, unthought=True).play(config)
    assert (verdict.step_scores, verdict.answer_scores) == ((), (0.5, 0.6))
    assert not Script([0.5], num_steps=1).play(config).answer_scores


@pytest.mark.parametrize("config", [SafeThinkConfig(), ResampleOnlyConfig(), GuardRefuseConfig()])
def test_an_answer_is_watched_from_where_the_thinking_opens_again(config: DefenseConfig) -> None:
    script = Script([0.5, 0.6, 0.7], num_steps=1, reopens=True, num_answer_steps=3)
    verdict = script.play(config)
    assert verdict.answer_scores == (0.6, 0.7)
    assert verdict.answer.ids == (50, 50, 51)
    assert accepted_in_order(script, verdict)


def test_what_was_answered_before_the_thinking_opened_again_is_not_rolled_back() -> None:
    config = ROLLBACK.replace(max_resamples=1, rollback_steps=9)
    script = Script([0.5, -0.5, -0.4, 0.6, 0.7], num_steps=1, reopens=True, num_answer_steps=3)
    verdict = script.play(config)
    assert accepted_in_order(script, verdict)
    (note,) = verdict.interventions
    assert (note.where, note.step, note.dropped_steps, note.position) == ("answer", 0, 0, 1)


@pytest.mark.parametrize("config", [NoneConfig(), AlwaysConfig()])
def test_without_a_monitor_an_answer_goes_on_behind_an_opening_tag(config: DefenseConfig) -> None:
    verdict = Script([], reopens=True).play(config)
    assert (verdict.answer.ids, verdict.answer_scores) == (ANSWER, ())


@pytest.mark.parametrize("config", [NoneConfig(), AlwaysConfig(), SafeThinkConfig(), GuardRefuseConfig()])
def test_who_reads_along_gets_steps_and_the_same_output(config: DefenseConfig) -> None:
    streamed = Script([0.5] * 3)
    verdict = streamed.play(config, replace(TASK, streamed=True))
    assert accepted_in_order(streamed, verdict)
    assert verdict.answer.ids == ANSWER
    assert [len(each.answer) for each in streamed.accepted][-2:] == [1, 2]
    assert not any(isinstance(each, Extend) and each.until is Until.THOUGHT for each in streamed.effects)
