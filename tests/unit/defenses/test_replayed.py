"""What one injection does, and what a defense does from a drifted step on, are what the defense does when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink import defenses
from safethink.config import AlwaysConfig, ResampleOnlyConfig, SafeThinkConfig
from safethink.defenses.effects import (
    Accept,
    Answer,
    Defense,
    Effect,
    Extend,
    Extension,
    Score,
    StopReason,
    Task,
    Until,
    Verdict,
)
from safethink.defenses.inject_once import inject_once
from safethink.defenses.replayed import replayed
from safethink.seeds import stable_seed
from safethink.tokens import Tokens

TASK = Task(prefixes=((90, 91), (95,)), close=(7,), refusal=(8, 9))
LAST = 4
"""Steps after which the thinking closes."""


class Greedy:
    """A reasoner and a monitor that are functions of what stands before them, so that the same place goes on the same.

    Attributes:
        seed: which functions.
        harsh: share of traces that the monitor refuses, in percent.
        effects: all that was asked for.
    """

    def __init__(self, seed: int, harsh: int = 40) -> None:
        self.seed, self.harsh = seed, harsh
        self.effects: list[Effect] = []

    def play(self, defense: Defense) -> Verdict:
        answer: Answer = None
        while True:
            try:
                effect = defense.send(answer)
            except StopIteration as stop:
                return stop.value
            self.effects.append(effect)
            answer = self._answer(effect)

    def _answer(self, effect: Effect) -> Answer:
        match effect:
            case Accept():
                return None
            case Score():
                return -0.5 if stable_seed(self.seed, "score", *effect.tokens.own()) % 100 < self.harsh else 0.5
            case Extend(until=Until.STEP):
                return self.step(effect.trace)
            case Extend(until=Until.THOUGHT):
                return self._whole(effect.trace)
            case Extend():
                return Extension(Tokens.sampled((self._token(effect.tokens),)), "end")
            case _:
                raise AssertionError(effect)

    def _token(self, before: Tokens) -> int:
        return 1000 + stable_seed(self.seed, "token", *before.ids) % 1000

    def step(self, trace: Tokens) -> Extension:
        stop: StopReason = "thought" if len(trace.own()) == LAST - 1 else "step"
        return Extension(Tokens.sampled((self._token(trace),)), stop)

    def _whole(self, trace: Tokens) -> Extension:
        grown = Tokens()
        while True:
            step = self.step(trace + grown)
            grown += step.tokens
            if step.stop == "thought":
                return Extension(grown, "thought")


def drifting(world: Greedy, num_steps: int) -> tuple[Tokens, list[Extension]]:
    """The steps of an undefended trace, and the trace before the last of them."""
    steps = list[Extension]()
    before, trace = Tokens(), Tokens()
    for _ in range(num_steps):
        steps.append(world.step(trace))
        before, trace = trace, trace + steps[-1].tokens
    return before, steps


@given(seed=st.integers(0, 10**6), num_steps=st.integers(1, LAST - 1), keep=st.booleans())
def test_one_injection_is_what_the_defense_does_where_its_first_resample_passes(
    seed: int, num_steps: int, keep: bool
) -> None:
    world = Greedy(seed, harsh=0)
    before, steps = drifting(world, num_steps)
    once = world.play(inject_once(replace(TASK, start=before), keep))
    firing = FiresOnce(seed, fires_at=num_steps)
    config = SafeThinkConfig(keep_prefix=keep, max_steered_steps=LAST)
    guarded = firing.play(replayed(TASK, defenses.build(config), steps))
    assert [note.outcome for note in guarded.interventions] == ["recovered"]
    assert (once.trace, once.answer, once.closed) == (guarded.trace, guarded.answer, guarded.closed)
    assert sum(once.trace.forced) == (2 if keep else 0)


class FiresOnce(Greedy):
    """A monitor that refuses the score of one index alone."""

    def __init__(self, seed: int, fires_at: int) -> None:
        super().__init__(seed)
        self.left = fires_at

    def _answer(self, effect: Effect) -> Answer:
        if not isinstance(effect, Score):
            return super()._answer(effect)
        self.left -= 1
        return -0.5 if self.left == 0 else 0.5


def test_an_injection_that_stays_is_what_a_prefix_at_the_start_does() -> None:
    kept, always = Greedy(3), Greedy(3)
    task = replace(TASK, start=Tokens.sampled((20, 21)))
    assert kept.play(inject_once(task, keep_prefix=True)) == always.play(defenses.start(AlwaysConfig(), task))
    assert kept.effects == always.effects


def test_with_nothing_to_inject_there_is_nothing_to_drop() -> None:
    bare = replace(TASK, prefixes=(), start=Tokens.sampled((20,)))
    kept, dropped = (Greedy(3).play(inject_once(bare, keep)) for keep in (True, False))
    assert kept == dropped


@pytest.mark.parametrize("streamed", [False, True])
def test_a_dropped_prefix_is_before_its_step_and_nowhere_else(streamed: bool) -> None:
    world = Greedy(3)
    verdict = world.play(inject_once(replace(TASK, streamed=streamed), keep_prefix=False))
    asked = [effect.trace for effect in world.effects if isinstance(effect, Extend)]
    assert asked[0] == Tokens.injected((90, 91))
    assert not any(any(trace.forced) for trace in asked[1:])
    assert not any(verdict.trace.forced)
    assert len(verdict.trace) == LAST


def first_violation(verdict: Verdict) -> int | None:
    return next((step for step, score in enumerate(verdict.step_scores) if score < 0), None)


@pytest.mark.slow
@given(
    seed=st.integers(0, 10**6),
    harsh=st.integers(0, 100),
    config=st.builds(
        SafeThinkConfig,
        keep_prefix=st.booleans(),
        max_resamples=st.integers(1, 3),
        max_steered_steps=st.integers(0, LAST),
        monitor_answer=st.booleans(),
        fallback=st.sampled_from(["keep_last", "best", "refuse", "rollback"]),
    )
    | st.builds(ResampleOnlyConfig, max_resamples=st.integers(1, 3)),
)
def test_a_defense_that_is_shown_the_steps_it_took_ends_where_it_ended(
    seed: int, harsh: int, config: SafeThinkConfig | ResampleOnlyConfig
) -> None:
    rule = defenses.build(config)
    ran = Greedy(seed, harsh).play(rule(TASK))
    step = first_violation(ran)
    shown = drifting(Greedy(seed), 1 if step is None else step + 1)[1]
    assert Greedy(seed, harsh).play(replayed(TASK, rule, shown)) == ran


def test_steps_behind_one_that_the_defense_drops_are_forgotten() -> None:
    world = FiresOnce(5, fires_at=1)
    _, steps = drifting(world, 3)
    verdict = world.play(replayed(TASK, partial(defenses.start, SafeThinkConfig(keep_prefix=True)), steps))
    assert verdict.trace[:2] == Tokens.injected((90, 91))
    assert not set(verdict.trace.own()) & recorded(steps)


def recorded(steps: Sequence[Extension]) -> set[int]:
    return {token_id for step in steps for token_id in step.tokens.ids}
