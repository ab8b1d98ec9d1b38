"""A monitor that always says the same; at 1 it never fires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safethink.monitors import ScoreRequest


@dataclass(frozen=True, slots=True)
class ConstantMonitor:
    """Scores everything with `value`, for comparisons and tests.

    Attributes:
        value: the score, in [-1, 1].
    """

    value: float = 1.0

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One `value` per request."""
        return [self.value] * len(requests)

    def release(self, row: int) -> None:
        """Nothing is cached."""
