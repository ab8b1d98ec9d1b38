"""The moves that defenses are made of: ask for tokens, ask for a score, answer, refuse."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

from safethink.defenses.effects import (
    Answer,
    Defense,
    Effect,
    Extend,
    Extension,
    Intervention,
    Look,
    Score,
    StopReason,
    Task,
    Until,
    Verdict,
    View,
    Weigh,
)
from safethink.tokens import Tokens

Result = TypeVar("Result")
Move: TypeAlias = Generator[Effect, Answer, Result]
"""Part of a defense: yields effects, returns a result to the defense that delegated to it."""


def extend(trace: Tokens, until: Until) -> Move[Extension]:
    """Let the reasoner continue after `trace`."""
    extension = yield Extend(trace, until)
    assert isinstance(extension, Extension), "an Extend is answered with an Extension"
    return extension


def score(trace: Tokens) -> Move[float]:
    """Let the monitor score `trace`."""
    value = yield Score(trace)
    assert isinstance(value, float), "a Score is answered with a float"
    return value


def look(trace: Tokens, top_k: int = 0, layer: int | None = None) -> Move[View]:
    """Look at what the reasoner would say next after `trace`."""
    view = yield Look(trace, top_k, layer)
    assert isinstance(view, View), "a Look is answered with a View"
    return view


def weigh(trace: Tokens, continuation: tuple[int, ...]) -> Move[tuple[float, ...]]:
    """See how likely the reasoner finds `continuation` after `trace`."""
    log_probabilities = yield Weigh(trace, continuation)
    assert isinstance(log_probabilities, tuple), "a Weigh is answered with log-probabilities"
    return log_probabilities


def answer(
    trace: Tokens,
    stop: StopReason,
    interventions: tuple[Intervention, ...] = (),
    step_scores: tuple[float, ...] = (),
) -> Defense:
    """Let the reasoner answer from its finished thinking; thinking that never closed has no answer.

    Args:
        trace: the accepted trace.
        stop: why its last extension ended.
        interventions: what was done on the way.
        step_scores: the first score of each step.
    """
    closed = stop == "thought"
    tokens = (yield from extend(trace, Until.ANSWER)).tokens if closed else Tokens()
    return Verdict(trace, tokens, closed, interventions=interventions, step_scores=step_scores)


def refuse(
    task: Task,
    trace: Tokens,
    interventions: tuple[Intervention, ...] = (),
    step_scores: tuple[float, ...] = (),
) -> Verdict:
    """Close the thinking after `trace` and refuse in the reasoner's place."""
    return Verdict(
        trace=trace + Tokens.injected(task.close),
        answer=Tokens.injected(task.refusal),
        closed=True,
        refused=True,
        interventions=interventions,
        step_scores=step_scores,
    )
