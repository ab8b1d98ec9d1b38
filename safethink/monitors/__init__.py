"""Monitors score (prompt, partial trace): the safety reward model of the papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from safethink.prompts import Prompt


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One row of a batch handed to a monitor.

    Attributes:
        row: a stable key; the monitor may keep what it has read of this row under it between calls.
        prompt: what the reasoner was asked, attack text included.
        trace: the partial trace as text, without opening or closing tags and without injected tokens.
    """

    row: int
    prompt: Prompt
    trace: str


@runtime_checkable
class Monitor(Protocol):
    """Scores batches of (prompt, partial trace) in [-1, 1]; higher is safer."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order."""
        ...

    def release(self, row: int) -> None:
        """Forget what was cached for `row`."""
        ...
