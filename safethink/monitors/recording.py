"""A monitor that remembers what it was fed and what it said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safethink.monitors import FittedMonitor, Monitor, ScoreRequest, layer_read_by, tokens_read


@dataclass(frozen=True, slots=True)
class Recorded:
    """One thing the monitor read, and what it said.

    Attributes:
        trace: the partial trace it was fed.
        score: its score.
    """

    trace: str
    score: float


class RecordingMonitor:
    """Scores as another monitor does, and remembers.

    Attributes:
        readings: everything it was asked, in order.
    """

    def __init__(self, monitor: Monitor) -> None:
        """Listen in on `monitor`."""
        self.readings: list[Recorded] = []
        self._monitor = monitor

    @property
    def layer(self) -> int | None:
        """Index of the reasoner's hidden state that the monitor reads; None for none."""
        return layer_read_by(self._monitor)

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Score as the monitor does."""
        scores = self._monitor.score(requests)
        pairs = zip(requests, scores, strict=True)
        self.readings += [Recorded(request.trace, score) for request, score in pairs]
        return scores

    def release(self, row: int) -> None:
        """Forget what was cached for `row`; the readings stay."""
        self._monitor.release(row)

    def refuse_other(self, is_reasoner: Callable[[str], bool]) -> None:
        """Refuse what the monitor refuses."""
        if isinstance(self._monitor, FittedMonitor):
            self._monitor.refuse_other(is_reasoner)

    def tokens_read(self, row: int) -> int | None:
        """Number of tokens that the monitor read for the last score of `row`; None where it does not say."""
        return tokens_read(self._monitor, row)
