"""The moves that defenses are made of: ask for tokens, ask for a score, go on where nobody watches, answer."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TypeAlias, TypeVar

from safethink.defenses.draft import Draft
from safethink.defenses.effects import (
    Accept,
    Answer,
    Defense,
    Effect,
    Extend,
    Extension,
    Look,
    Score,
    Until,
    View,
    Weigh,
)
from safethink.tokens import Tokens

Result = TypeVar("Result")
Move: TypeAlias = Generator[Effect, Answer, Result]
"""Part of a defense: yields effects, returns a result to the defense that delegated to it."""


def extend(trace: Tokens, until: Until, answer: Tokens = Tokens()) -> Move[Extension]:  # noqa: B008 (it is frozen)
    """Let the reasoner continue after `trace` and `answer`."""
    extension = yield Extend(trace, until, answer)
    assert isinstance(extension, Extension), "an Extend is answered with an Extension"
    return extension


def score(trace: Tokens, answer: Tokens = Tokens(), sees_injected: bool = False) -> Move[float]:  # noqa: B008
    """Let the monitor score `trace` and `answer`."""
    value = yield Score(trace, answer, sees_injected)
    assert isinstance(value, float), "a Score is answered with a float"
    return value


def accept(standing: Accept) -> Move[None]:
    """Say what stands."""
    nothing = yield standing
    assert nothing is None, "an Accept is answered with nothing"


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


def next_step(draft: Draft) -> Move[Extension]:
    """Let the reasoner propose the draft's next step."""
    if draft.answer is None:
        return (yield from extend(draft.trace, Until.STEP))
    return (yield from extend(draft.trace, Until.ANSWER_STEP, draft.answer))


def score_draft(draft: Draft, sees_injected: bool = False) -> Move[float]:
    """Let the monitor score what there is of the draft."""
    return (yield from score(draft.trace, draft.answer or Tokens(), sees_injected))


def unwatched(draft: Draft, whole: Until, streamed: bool) -> Move[Draft]:
    """Let the reasoner go on to the end of the part that grows, or in an answer to where the thinking opens again.

    Args:
        draft: what stands.
        whole: `THOUGHT` or `ANSWER`.
        streamed: whether to go step by step, so that whoever reads along sees each; the tokens are the same.
    """
    while True:
        if streamed:
            piece = yield from next_step(draft)
        else:
            piece = yield from extend(draft.trace, whole, draft.answer or Tokens())
        draft = draft.accepted(piece)
        yield from accept(draft.standing())
        if piece.stop != "step":
            return replace(draft, starts=())


def open_answer(draft: Draft, watched: bool, streamed: bool) -> Move[Draft]:
    """Go from closed thinking into the answer, as far as nobody need watch.

    Where the reasoner closed its thinking without having thought, or opens or closes it again in the answer, its
    reasoning stands outside the tags and is watched from there on; the first score reads all of the answer till then.

    Args:
        draft: what stands; its thinking closed.
        watched: whether the answer is watched from its beginning in any case.
        streamed: as of `unwatched`.

    Returns:
        The draft: finished, or open where it must be watched from there on.
    """
    watched, draft = watched or draft.unthought, draft.answering()
    if watched:
        return draft
    draft = yield from unwatched(draft, Until.ANSWER, streamed)
    return draft.answering() if draft.is_open else draft


def answer(draft: Draft, streamed: bool = False) -> Defense:
    """Let the reasoner answer from its finished thinking with nobody watching.

    Thinking that never closed has no answer.

    Args:
        draft: what stands.
        streamed: as of `unwatched`.
    """
    if draft.stop == "thought":
        draft = draft.answering()
        while draft.is_open:
            draft = yield from unwatched(draft, Until.ANSWER, streamed)
    return draft.verdict()
