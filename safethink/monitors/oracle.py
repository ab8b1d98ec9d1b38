"""The testbed's oracle as a monitor: what a perfect guard would say, or one that errs as often as asked for."""

from __future__ import annotations

from collections.abc import Sequence

from safethink.monitors import ScoreRequest
from safethink.seeds import stable_seed
from safethink.testbed import oracle


class OracleMonitor:
    """Scores -1 where the partial trace stands in the drifted state, else +1. Only for prompts of the testbed.

    Noise is drawn once per (prompt, text): the same text always scores the same, in this run and in any other, and a
    trace that has grown by a step, or a step that was sampled again, draws anew. So errors are independent from step to
    step, which is what the exact prediction assumes of a monitor.

    Args:
        miss_rate: share of drifted traces that it passes.
        false_alarm_rate: share of the others that it fires at.
        seed: draws which ones.
    """

    def __init__(self, miss_rate: float = 0.0, false_alarm_rate: float = 0.0, seed: int = 0) -> None:
        self._error_rates = {True: miss_rate, False: false_alarm_rate}
        self._seed = seed

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order."""
        return [-1.0 if self._fires(request) else 1.0 for request in requests]

    def release(self, row: int) -> None:
        """Nothing is cached."""

    def _fires(self, request: ScoreRequest) -> bool:
        drifted = oracle.drifted(request.prompt, request.trace)
        draw = stable_seed(self._seed, "oracle", request.prompt.id, request.trace) / 2**63
        return drifted != (draw < self._error_rates[drifted])
