"""The testbed's oracle as a monitor: what a perfect guard would say. Only for prompts of the testbed."""

from __future__ import annotations

from collections.abc import Sequence

from safethink.monitors import ScoreRequest
from safethink.testbed import oracle


class OracleMonitor:
    """Scores -1 where the partial trace stands in the drifted state, else +1."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One exact score per request, in order."""
        return [-1.0 if oracle.drifted(request.prompt, request.trace) else 1.0 for request in requests]

    def release(self, row: int) -> None:
        """Nothing is cached."""
