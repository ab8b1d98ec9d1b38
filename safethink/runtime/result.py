"""The result of a guarded run on one prompt and sample, and the branches that continue it from its middle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from safethink.defenses.effects import Intervention, Verdict
from safethink.prefix import PrefixLike
from safethink.prompts import Prompt
from safethink.runtime.row import Usage
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Branch:
    """The start of a continuation: part of a trace, and the prefix injected after it.

    Attributes:
        prompt: the prompt.
        trace: the trace so far.
        prefix_ids: injected once, directly after `trace`; empty for nothing.
        sample: tells apart continuations of the same trace.
    """

    prompt: Prompt
    trace: Tokens
    prefix_ids: tuple[int, ...] = ()
    sample: int = 0


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
            "scores": list(note.scores),
        }
