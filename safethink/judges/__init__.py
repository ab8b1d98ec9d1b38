"""Judges decide after the fact what an output was. Never the same model as the monitor in a reported number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

from safethink.config.plugins import PluginKind
from safethink.prompts import Prompt

Outcome: TypeAlias = Literal["harmful", "refusal", "helpful", "invalid", "unjudged"]
"""Of a whole output. `invalid` (unclosed thinking, a loop, gibberish, empty) is never counted as safe. `unjudged` is an
output on which a judge gave no verdict that can be read: it is counted, and stands in no rate."""


@dataclass(frozen=True, slots=True)
class Output:
    """One output to be judged.

    Attributes:
        prompt: what was asked.
        trace: the reasoner's own trace, without injected tokens.
        answer: the answer.
        closed: whether the thinking closed.
    """

    prompt: Prompt
    trace: str
    answer: str
    closed: bool = True

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to judge; any other output is `invalid`."""
        return self.closed and bool(self.answer.strip())


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict on one output.

    Attributes:
        outcome: of the whole output.
        trace_harmful: whether the trace itself gives the harm away, whatever the answer says; None where the judge was
            asked and gave no verdict that can be read.
        correct: whether the answer is right; None where the prompt has no reference.
        note: reason for an outcome that needs one, such as a tie or a reply without a verdict.
    """

    outcome: Outcome
    trace_harmful: bool | None
    correct: bool | None
    note: str = ""


@runtime_checkable
class Judge(Protocol):
    """Reads text, decides."""

    def judge(self, prompt: Prompt, trace: str, answer: str, closed: bool) -> Judgement:
        """Judge one output.

        Args:
            prompt: what was asked.
            trace: the reasoner's own trace, without injected tokens.
            answer: the answer.
            closed: whether the thinking closed.
        """
        ...

    def drifted(self, prompt: Prompt, trace: str) -> bool | None:
        """Whether a partial trace is on its way to a harmful answer; confirms what the monitor flagged.

        Returns:
            None where the judge has no opinion on traces; another one is asked then, or the monitor's word stands.
        """
        ...


@runtime_checkable
class AnswerJudge(Judge, Protocol):
    """A judge that may read answers alone."""

    @property
    def reads_traces(self) -> bool:
        """Whether it reads finished traces after all; where not, it calls none harmful."""
        ...


@runtime_checkable
class BatchJudge(Judge, Protocol):
    """A judge that reads many outputs at once, as one that asks a model does."""

    @property
    def batch_size(self) -> int:
        """Number of outputs that are worth waiting for."""
        ...

    def judge_all(self, outputs: Sequence[Output]) -> list[Judgement]:
        """Judge every output, in order."""
        ...

    def drifted_all(self, traces: Sequence[tuple[Prompt, str]]) -> list[bool | None]:
        """Say of every partial trace whether it has drifted, in order."""
        ...

    def judge(self, prompt: Prompt, trace: str, answer: str, closed: bool) -> Judgement:
        """Judge one output."""
        return self.judge_all([Output(prompt, trace, answer, closed)])[0]

    def drifted(self, prompt: Prompt, trace: str) -> bool | None:
        """Whether a partial trace is on its way to a harmful answer; None for no opinion."""
        return self.drifted_all([(prompt, trace)])[0]


def reads_traces(judge: Judge) -> bool:
    """Whether `judge` reads finished traces; all do but those that say otherwise."""
    return not isinstance(judge, AnswerJudge) or judge.reads_traces


def batch_size(judge: Judge) -> int:
    """Number of outputs to hand to a judge at once; 1 where it reads one at a time."""
    return judge.batch_size if isinstance(judge, BatchJudge) else 1


def judge_all(judge: Judge, outputs: Sequence[Output]) -> list[Judgement]:
    """Judge every output, in order; at once where the judge can."""
    if isinstance(judge, BatchJudge):
        return judge.judge_all(outputs)
    return [judge.judge(each.prompt, each.trace, each.answer, each.closed) for each in outputs]


def drifted_all(judge: Judge, traces: Sequence[tuple[Prompt, str]]) -> list[bool | None]:
    """Ask of every partial trace whether it has drifted, in order; at once where the judge can."""
    if isinstance(judge, BatchJudge):
        return judge.drifted_all(traces)
    return [judge.drifted(prompt, trace) for prompt, trace in traces]


def first_opinions(judges: Sequence[Judge], traces: Sequence[tuple[Prompt, str]]) -> list[bool | None]:
    """Whether each partial trace has drifted, by the first judge that has an opinion on it; None where none has."""
    out: list[bool | None] = [None] * len(traces)
    for judge in judges:
        open_still = [index for index, said in enumerate(out) if said is None]
        said = drifted_all(judge, [traces[index] for index in open_still]) if open_still else []
        for index, opinion in zip(open_still, said, strict=True):
            out[index] = opinion
    return out


def _is_judge(found: object) -> TypeGuard[Judge]:
    return isinstance(found, Judge) and not isinstance(found, type)


PLUGINS = PluginKind("judge", "safethink.judges", _is_judge, "`judge` and `drifted`")
"""Judges of other packages."""
