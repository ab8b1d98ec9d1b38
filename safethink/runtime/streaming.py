"""Reading along while a guarded reasoner writes: events that join, piece by piece, to exactly its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from safethink.defenses.effects import Accept, Intervention, Part
from safethink.runtime.result import Result
from safethink.thinking.format import Thought
from safethink.thinking.reading import answer_text, full_trace_text
from safethink.tokens import Tokens

EventKind: TypeAlias = Literal["trace", "answer", "intervention", "done"]

UNDECODED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was accepted, and will not be taken back.

    The texts of the events of a part join to `result.trace` and `result.answer`, their tokens to the result's. A piece
    of a character, or of a closing tag that is written in plain characters, waits for the rest of it; so do blanks in
    the answer, whose result has none around it. Such a piece's tokens come at once, so an event may have no text.

    Attributes:
        kind: which part of the output it is; `intervention` when something was dropped, `done` at the end.
        text: the piece.
        tokens: the tokens that were accepted with it, injected ones marked.
        wait_tokens: tokens that the reasoner sampled, dropped ones included, since a part of the output was shown last.
            Those of the trace, the answer and the end add up to `result.usage.sampled`.
        intervention: what was done; None for other kinds.
        result: all of it, at the end.
    """

    kind: EventKind
    text: str = ""
    tokens: Tokens = field(default_factory=Tokens)
    wait_tokens: int = 0
    intervention: Intervention | None = None
    result: Result | None = None


@dataclass
class _Shown:
    """Number of tokens and characters of one part that were shown."""

    num_tokens: int = 0
    num_characters: int = 0


class Transcript:
    """Turns what a defense accepts into events."""

    def __init__(self, thought: Thought) -> None:
        """Read tokens as `thought` does."""
        self._thought = thought
        # Tags in plain characters, which no text has: whatever may become one waits.
        self._tags: dict[Part, tuple[str, ...]] = {
            "trace": (thought.closer.text,) if thought.closer.is_spelled else (),
            "answer": thought.family.answer_tags,
        }
        self._shown: dict[Part, _Shown] = {"trace": _Shown(), "answer": _Shown()}
        self._num_interventions = 0
        self._sampled = 0

    def show(self, standing: Accept, sampled: int) -> Iterator[Event]:
        """Yield the events that `standing` adds, when so many tokens have been sampled in all."""
        for intervention in standing.interventions[self._num_interventions :]:
            yield Event("intervention", wait_tokens=sampled - self._sampled, intervention=intervention)
        self._num_interventions = len(standing.interventions)
        yield from self._show("trace", standing.trace, sampled, whole=len(standing.answer) > 0)
        yield from self._show("answer", standing.answer, sampled, whole=False)

    def finish(self, result: Result) -> Iterator[Event]:
        """Yield what was not shown before, and the end."""
        verdict, sampled = result.verdict, result.usage.sampled
        yield from self.show(Accept(verdict.trace, interventions=verdict.interventions), sampled)
        yield from self._show("trace", verdict.trace, sampled, whole=True)
        yield from self._show("answer", verdict.answer, sampled, whole=True)
        yield Event("done", wait_tokens=sampled - self._sampled, result=result)

    def _show(self, part: Part, tokens: Tokens, sampled: int, whole: bool) -> Iterator[Event]:
        """The new piece of a part; `whole` if nothing will follow it."""
        shown = self._shown[part]
        text = self._text(part, tokens) if whole else self._settled(part, tokens)
        piece, new = text[shown.num_characters :], tokens[shown.num_tokens :]
        if not piece and not len(new):
            return
        yield Event(part, piece, new, sampled - self._sampled)
        shown.num_tokens, self._sampled = len(tokens), sampled
        shown.num_characters = max(shown.num_characters, len(text))

    def _text(self, part: Part, tokens: Tokens) -> str:
        return full_trace_text(self._thought, tokens) if part == "trace" else answer_text(self._thought, tokens)

    def _settled(self, part: Part, tokens: Tokens) -> str:
        """The text as far as no token that follows can change it."""
        text = self._text(part, tokens).rstrip(UNDECODED)
        text = text[: len(text) - _num_begun(text, self._tags[part])]
        return text.rstrip() if part == "answer" else text


def _num_begun(text: str, tags: tuple[str, ...]) -> int:
    """Number of characters at the end that one of `tags` may begin with."""
    return max((size for tag in tags for size in range(len(tag)) if text.endswith(tag[:size])), default=0)
