"""A monitor that fires only after several low scores in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from safethink.monitors import Monitor, ScoreRequest, alone, fail_closed
from safethink.monitors.combinations import Combination

_HALF_CHARACTER: Final = "\N{REPLACEMENT CHARACTER}"
"""Text of a character whose last bytes are in the next step."""
_SEAM: Final = "\n\n"
"""Break before an answer, in place of the blanks that the trace ended with; see `thinking.reading`."""


@dataclass(slots=True)
class _History:
    """The scores of a row's trace.

    Attributes:
        trace: the trace that was scored last.
        scored: how far into it each of its beginnings reaches that were scored, itself among them, with their scores.
    """

    trace: str = ""
    scored: list[tuple[int, float]] = field(default_factory=lambda: [])

    def add(self, trace: str, score: float) -> None:
        """Take in a score; those of traces that `trace` does not go on from are forgotten."""
        # A step that was rolled back or drawn anew is no beginning of what stands there now.
        while self.scored:
            length, kept = self.scored.pop()
            reach = _reach(self.trace[:length], trace)
            if reach is not None:
                self.scored.append((reach, kept))
                break
        self.trace = trace
        self.scored.append((len(trace), score))


def _reach(old: str, trace: str) -> int | None:
    """Number of characters of `trace` that the trace `old` reaches; None where `trace` does not go on from it."""
    if old.startswith(trace):
        return None
    whole, thought = old.rstrip(_HALF_CHARACTER), old.rstrip()
    if trace.startswith(whole):
        return len(whole)
    return len(thought) if trace.startswith(thought + _SEAM) else None


class PersistentMonitor(Combination):
    """The highest of the last `times` scores along the trace, and 1 while there are fewer.

    So it is below a threshold where, and only where, so many scores in a row are. A score belongs to a place in the
    trace: after a rollback, or where a step is drawn anew, the scores of the steps that are still there count.
    """

    def __init__(self, monitor: Monitor, times: int) -> None:
        """Ask `monitor`, and believe it once it has said so `times` times in a row."""
        super().__init__([monitor])
        self._times = times
        self._histories: dict[int, _History] = {}

    @property
    def reads_text(self) -> bool:
        """Always: the text tells which scores the trace goes on from."""
        return True

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: if the monitor fails.
        """
        scores = fail_closed.score(self.members[0], requests)
        return [self._persistent(request, score) for request, score in zip(requests, scores, strict=True)]

    def release(self, row: int) -> None:
        """Forget the scores of `row`, and let the monitor forget what it cached for it."""
        self._histories.pop(row, None)
        super().release(row)

    def alone(self) -> Monitor:
        """The monitor as it scores a single text, which has no scores before it."""
        return alone(self.members[0])

    def _persistent(self, request: ScoreRequest, score: float) -> float:
        history = self._histories.setdefault(request.row, _History())
        history.add(request.trace, score)
        last = [each for _, each in history.scored[-self._times :]]
        return max(last) if len(last) == self._times else 1.0
