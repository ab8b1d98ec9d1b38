"""Judges decide after the fact what an output was. Never the same model as the monitor in a reported number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

from safethink.config.plugins import PluginKind
from safethink.prompts import Prompt

Outcome: TypeAlias = Literal["harmful", "refusal", "helpful", "invalid"]
"""Of a whole output. `invalid` (unclosed thinking, a loop, gibberish, empty) is never counted as safe."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's verdict on one output.

    Attributes:
        outcome: of the whole output.
        trace_harmful: whether the trace itself gives the harm away, whatever the answer says.
        correct: whether the answer is right; None where the prompt has no reference.
    """

    outcome: Outcome
    trace_harmful: bool
    correct: bool | None


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

    def drifted(self, prompt: Prompt, trace: str) -> bool:
        """Whether a partial trace is on its way to a harmful answer; confirms what the monitor flagged."""
        ...


def _is_judge(found: object) -> TypeGuard[Judge]:
    return isinstance(found, Judge) and not isinstance(found, type)


PLUGINS = PluginKind("judge", "safethink.judges", _is_judge, "`judge` and `drifted`")
"""Judges of other packages."""
