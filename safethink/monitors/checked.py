"""Asks a monitor and believes nothing but scores: whatever else comes back stops the run with the prompt named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsFloat

from safethink.errors import MonitorError
from safethink.monitors import Monitor, ScoreRequest


def score(monitor: Monitor, requests: Sequence[ScoreRequest]) -> list[float]:
    """One score in [-1, 1] per request, in order.

    Raises:
        MonitorError: if the monitor raises, or returns anything else, NaN included; names the prompts.
    """
    culprits = ", ".join(repr(request.prompt.id) for request in requests[:3]) + ("..." if len(requests) > 3 else "")
    try:
        values = monitor.score(requests)
    except MonitorError:
        raise
    # Whatever a monitor raises must stop the run: nothing may be answered unguarded.
    except Exception as error:
        raise MonitorError(f"the monitor failed on prompt {culprits}: {type(error).__name__}: {error}") from error
    if len(values) != len(requests):
        raise MonitorError(f"the monitor gave {len(values)} scores for {len(requests)} prompts ({culprits})")
    return [_checked(request, value) for request, value in zip(requests, values, strict=True)]


def _checked(request: ScoreRequest, value: object) -> float:
    # Comparisons with NaN are false, so it is refused too.
    if not (isinstance(value, SupportsFloat) and -1 <= (score := float(value)) <= 1):
        raise MonitorError(f"the monitor scored prompt {request.prompt.id!r} {value!r}, which is not in [-1, 1]")
    return score
