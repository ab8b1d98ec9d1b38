"""Effects that a defense may ask for: a small, closed set, each with its answer.

A defense is a generator. It yields effects, is sent their results, and returns a `Verdict`.
It holds no model, no tensor and does no I/O, so it reads like its paper's pseudo-code and runs
unchanged against a scripted engine, a laptop model or a server.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from safethink.tokens import Tokens


class Until(Enum):
    """Extent of an `Extend`."""

    STEP = "step"
    """To the end of the current reasoning step, or of the thinking if that comes first."""
    THOUGHT = "thought"
    """To the end of the thinking."""
    ANSWER = "answer"
    """To the end of the answer, from closed thinking; or to where the thinking opens or closes again."""
    ANSWER_STEP = "answer_step"
    """To the end of the answer's current step, or of the answer if that comes first."""


StopReason: TypeAlias = Literal["step", "thought", "end", "length", "reopened"]
"""Stop reason: a step delimiter, the closing of the thinking, end of turn, a token limit, or a tag of the
thinking in the answer: the reasoner thinks, or has thought on, where nobody expects it."""

Part: TypeAlias = Literal["trace", "answer"]
"""The two parts of an output."""


@dataclass(frozen=True, slots=True)
class Extension:
    """The tokens that the reasoner produced for an `Extend`.

    Attributes:
        tokens: the new tokens, delimiter or closing tag included.
        stop: why it ended.
        unthought: whether it closed thinking in which there is nothing but blanks, what was injected left aside; the
            scheduler says so, for it can read.
        empty: whether it says nothing: no words of the reasoner's own, or none but those that were injected right
            before it over again; the scheduler says so too.
    """

    tokens: Tokens
    stop: StopReason
    unthought: bool = False
    empty: bool = False


@dataclass(frozen=True, slots=True)
class Extend:
    """Let the reasoner continue after prompt + `trace` + `answer`. Answered with an `Extension`.

    Attributes:
        trace: the trace, closing tag included where an answer follows.
        until: how far.
        answer: what there is of the answer.
    """

    trace: Tokens
    until: Until
    answer: Tokens = field(default_factory=Tokens)

    @property
    def tokens(self) -> Tokens:
        """All that stands behind the prompt."""
        return self.trace + self.answer


@dataclass(frozen=True, slots=True)
class Score:
    """Let the monitor score prompt + `trace` + `answer`. Answered with a float in [-1, 1], higher is safer.

    Attributes:
        trace: the trace.
        answer: what there is of the answer.
        sees_injected: whether the monitor reads forced tokens too; they are masked out before it reads if not.
    """

    trace: Tokens
    answer: Tokens = field(default_factory=Tokens)
    sees_injected: bool = False

    @property
    def tokens(self) -> Tokens:
        """All that stands behind the prompt."""
        return self.trace + self.answer


@dataclass(frozen=True, slots=True)
class Accept:
    """Say what stands and will never be taken back, to whoever reads along. Answered with None.

    A defense that says nothing shows everything at its end. What is accepted begins with what was accepted before.

    Attributes:
        trace: the part of the trace that stands.
        answer: the part of the answer that stands.
        interventions: every intervention so far, in order.
    """

    trace: Tokens
    answer: Tokens = field(default_factory=Tokens)
    interventions: tuple[Intervention, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """Look at what the reasoner would say next after prompt + `trace`, as it is before any temperature or truncation.

    Answered with a `View`. Token-level: only some engines offer it, see `engines.TokenLevelEngine`.

    Attributes:
        trace: the trace.
        top_k: how many of the likeliest tokens to show. Where there is room for one, each look at them counts as a
            token that the reasoner produced: the defense is to choose among them.
        layer: which hidden state of the last token to show, as transformers counts them: 0 is the embedding, -1 the
            last layer's after the final norm; None for none.
    """

    trace: Tokens
    top_k: int = 0
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """The distribution that a `Look` shows.

    Attributes:
        token_ids: the likeliest next tokens, the likeliest first.
        log_probabilities: theirs, in nats.
        entropy: of the whole distribution of the next token, in nats.
        hidden: the hidden state that was asked for; empty where none was.
        room: how many tokens still fit behind the trace before its limit or the end of the context window.
    """

    token_ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    entropy: float
    hidden: tuple[float, ...] = ()
    room: int = 0


@dataclass(frozen=True, slots=True)
class Weigh:
    """Force `continuation` on the reasoner after prompt + `trace` and see how likely it finds it.

    Answered with the log-probability of each token of it, in nats, given all before. Token-level, as `Look`.
    """

    trace: Tokens
    continuation: tuple[int, ...]


Effect: TypeAlias = Extend | Score | Accept | Look | Weigh
Answer: TypeAlias = Extension | float | View | tuple[float, ...] | None
"""Answer to an effect."""

InterventionOutcome: TypeAlias = Literal["recovered", "rolled_back", "empty", "kept_last", "kept_best", "refused"]


@dataclass(frozen=True, slots=True)
class Intervention:
    """One violation and what was done about it.

    Attributes:
        step: index of the violating step, from 0; the answer's steps count from 0 again.
        score_before: the monitor's score of the step that was dropped.
        score_after: its score of the step that was accepted instead; None where none was.
        resamples: how many times the step was resampled, tries after a rollback included.
        prefix: index into the portfolio of the prefix behind the accepted step; None where nothing was injected.
        outcome: `recovered` when a resample in the step's place passed, `rolled_back` when one did after more steps had
            been dropped, `empty` when what was accepted passes because it says nothing, else which fallback was taken.
        position: number of tokens of its part that were kept: there the accepted step or the refusal stands, and there
            a fork begins.
        scores: the score of every resample, in order; those after a rollback follow those before it.
        where: which part of the output it was in.
        dropped_steps: accepted steps that were dropped with the violating one, which the fallback `rollback` does; the
            accepted step is the one with the index `step - dropped_steps`.
        empty_resamples: how many of the resamples said nothing, see `Extension.empty`.
    """

    step: int
    score_before: float
    score_after: float | None
    resamples: int
    prefix: int | None
    outcome: InterventionOutcome
    position: int
    scores: tuple[float, ...] = ()
    where: Part = "trace"
    dropped_steps: int = 0
    empty_resamples: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A defense's return value: the accepted trace, the answer, and what it took.

    Attributes:
        trace: the accepted trace, closing tag included where the thinking closed.
        answer: the answer tokens; forced where the defense wrote a refusal itself.
        closed: whether the thinking closed; an unclosed trace has no answer.
        refused: whether the defense itself refused (rather than the reasoner).
        interventions: every intervention, in order.
        step_scores: the monitor's first score of each step of the trace, in order; after a rollback a step's index is
            scored anew.
        answer_scores: the same of the answer's steps; empty where it was not monitored.
    """

    trace: Tokens
    answer: Tokens
    closed: bool
    refused: bool = False
    interventions: tuple[Intervention, ...] = ()
    step_scores: tuple[float, ...] = ()
    answer_scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """The row that a defense defends, as far as it may know it.

    Attributes:
        start: tokens already in the trace when the defense begins; empty for a fresh prompt, part of a trace for a fork
            or a prefilled attack.
        prefixes: the portfolio, as token ids, each with its separator; try b of an intervention uses prefix b, and the
            last one again when it runs out.
        close: token ids that close the thinking, for a defense that ends it itself.
        refusal: token ids of the refusal a defense may write itself, to follow `close`.
        first_step: index of the first step the defense will ask for; more than 0 only in a fork.
        streamed: whether somebody reads along: what nobody monitors is then asked for step by step too.
    """

    start: Tokens = field(default_factory=Tokens)
    prefixes: tuple[tuple[int, ...], ...] = ()
    close: tuple[int, ...] = ()
    refusal: tuple[int, ...] = ()
    first_step: int = 0
    streamed: bool = False

    def injection(self, prefix_ids: tuple[int, ...]) -> Tokens:
        """The tokens that a prefix of the portfolio puts into the trace."""
        return Tokens.injected(prefix_ids)


Defense: TypeAlias = Generator[Effect, Answer, Verdict]
"""A running defense."""
