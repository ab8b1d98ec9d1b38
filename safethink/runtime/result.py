"""The result of a guarded run on one prompt and sample, whole or as it is written.

A result can be continued from its middle by branches; the events of a stream join, piece by piece, to exactly it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from safethink.defenses.effects import Accept, Extension, Intervention, Part, Verdict
from safethink.prefix import PrefixLike
from safethink.prompts import Prompt
from safethink.runtime.row import Usage
from safethink.thinking.format import Thought
from safethink.thinking.reading import answer_text, full_trace_text, num_closed_again
from safethink.tokens import Tokens

EventKind: TypeAlias = Literal["trace", "answer", "intervention", "done"]
UNDECODED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Branch:
    """The start of a continuation: part of a trace, and the prefix injected after it.

    Attributes:
        prompt: the prompt.
        trace: the trace so far.
        prefix_ids: injected once, directly after `trace`; empty for nothing.
        sample: tells apart continuations of the same trace.
        keep_prefix: whether the prefix stays in the trace once the step behind it is taken.
    """

    prompt: Prompt
    trace: Tokens
    prefix_ids: tuple[int, ...] = ()
    sample: int = 0
    keep_prefix: bool = True


@dataclass(frozen=True, slots=True)
class Replay:
    """A run under the defense whose first steps were sampled before: it sees them come, and decides anew what to do.

    Attributes:
        prompt: the prompt.
        trace: the trace before the first of these steps.
        steps: what the reasoner proposed, in order.
        sample: tells apart runs on the same steps.
    """

    prompt: Prompt
    trace: Tokens
    steps: tuple[Extension, ...]
    sample: int = 0

    @property
    def num_before_last(self) -> int:
        """Number of tokens of the trace before the last of the steps."""
        return len(self.trace) + sum(len(step.tokens) for step in self.steps[:-1])


@runtime_checkable
class Forker(Protocol):
    """Continues a result from its middle."""

    def fork(self, result: Result, step: int, prefix: PrefixLike | None, n: int, seed: int | None) -> list[Result]:
        """Go back to before a step, inject once, continue; see `Result.fork`."""
        ...


@dataclass(frozen=True)
class Result:
    """A trace, its answer, and how they came about.

    Attributes:
        prompt: what was asked.
        sample: which sample of the prompt.
        seed: the base seed of the row.
        prompt_ids: the opened prompt; `prompt_ids + trace_ids + answer_ids` is all that the reasoner read and wrote.
        verdict: the trace and the answer as tokens, and every intervention.
        usage: tokens, monitor calls and time.
        trace: the reasoning as text, injected tokens included, closing tag removed.
        own_trace: the same without injected tokens: what monitors and judges read.
        answer: the answer as text; empty where the thinking never closed.
        prefixes: the texts of the portfolio.
        guarded: what produced it, and can fork it.
    """

    prompt: Prompt
    sample: int
    seed: int
    prompt_ids: tuple[int, ...]
    verdict: Verdict
    usage: Usage
    trace: str
    own_trace: str
    answer: str
    prefixes: tuple[str, ...]
    guarded: Forker = field(repr=False, compare=False)

    @property
    def trace_ids(self) -> tuple[int, ...]:
        """The trace as token ids, closing tag included."""
        return self.verdict.trace.ids

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The answer as token ids, end of turn included."""
        return self.verdict.answer.ids

    @property
    def forced_mask(self) -> tuple[bool, ...]:
        """One flag per id of `trace_ids + answer_ids`: whether a defense put it there."""
        return self.verdict.trace.forced + self.verdict.answer.forced

    @property
    def closed(self) -> bool:
        """Whether the thinking closed."""
        return self.verdict.closed

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """Every violation and what was done about it."""
        return self.verdict.interventions

    def fork(self, step: int, prefix: PrefixLike | None = None, n: int = 1, seed: int | None = None) -> list[Result]:
        """Go back to before a step, inject a prefix once, and let the reasoner continue unguarded.

        Args:
            step: index of the step that is dropped, with all that followed.
            prefix: what is injected: its first prefix, once; None for nothing.
            n: how many continuations.
            seed: base seed of the continuations; None for one that differs from this row's.

        Raises:
            ValueError: if the trace has no such step.
        """
        return self.guarded.fork(self, step, prefix, n, seed)

    def to_json(self) -> dict[str, Any]:
        """The record that `safethink generate --json` prints.

        `forced_mask` covers `trace_ids + answer_ids`. An intervention's `prefix` is the text behind the accepted step,
        null where nothing was injected; `usage` has no times, so that the same run prints the same.
        """
        return {
            "prompt_ids": list(self.prompt_ids),
            "trace_ids": list(self.trace_ids),
            "answer_ids": list(self.answer_ids),
            "forced_mask": list(self.forced_mask),
            "trace": self.trace,
            "answer": self.answer,
            "interventions": [self._intervention(note) for note in self.interventions],
            "step_scores": list(self.verdict.step_scores),
            "answer_scores": list(self.verdict.answer_scores),
            "usage": {
                "sampled": self.usage.sampled,
                "dropped": self.usage.dropped,
                "forced": self.usage.forced,
                "monitor_calls": self.usage.monitor_calls,
                "monitor_tokens": self.usage.monitor_tokens,
            },
        }

    def _intervention(self, note: Intervention) -> dict[str, Any]:
        return {
            "step": note.step,
            "score_before": note.score_before,
            "score_after": note.score_after,
            "resamples": note.resamples,
            "prefix": None if note.prefix is None else self.prefixes[note.prefix],
            "outcome": note.outcome,
            "where": note.where,
            "position": note.position,
            "dropped_steps": note.dropped_steps,
            "empty_resamples": note.empty_resamples,
            "scores": list(note.scores),
        }


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
    num_closed_again: int = 0


class Transcript:
    """Turns what a defense accepts into events.

    An answer that turns out to have been thinking, since the reasoner closes it a second time, begins anew behind that.
    """

    def __init__(self, thought: Thought) -> None:
        """Read tokens as `thought` does."""
        self._thought = thought
        # Tags in plain characters, which no text has: whatever may become one waits.
        self._tags: dict[Part, tuple[str, ...]] = {
            "trace": (thought.closer.text,) if thought.closer.is_spelled else (),
            "answer": (
                *thought.family.answer_tags,
                *(tag.text for tag in (thought.opener, thought.closer) if tag.is_spelled),
            ),
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
        if part == "answer" and (closed := num_closed_again(self._thought, tokens)) != shown.num_closed_again:
            shown.num_closed_again, shown.num_characters = closed, 0
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
