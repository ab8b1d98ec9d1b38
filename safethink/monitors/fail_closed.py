"""Asks a monitor and believes nothing but scores: whatever else comes back stops the run with the prompt named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

from safethink.errors import MonitorError
from safethink.monitors import Monitor, ScoreRequest, alone
from safethink.prompts import Prompt


def score(monitor: Monitor, requests: Sequence[ScoreRequest]) -> list[float]:
    """One score in [-1, 1] per request, in order.

    Raises:
        MonitorError: if the monitor raises, or returns anything else, NaN included; names the prompt.
    """
    culprits = ", ".join(repr(request.prompt.id) for request in requests[:3]) + ("..." if len(requests) > 3 else "")
    try:
        values = list(monitor.score(requests))
    except MonitorError:
        raise
    # Whatever a monitor raises must stop the run: nothing may be answered unguarded.
    except Exception as error:
        if len(requests) > 1:
            _ask_one_by_one(monitor, requests)
        raise MonitorError(f"the monitor failed on prompt {culprits}: {type(error).__name__}: {error}") from error
    if len(values) != len(requests):
        raise MonitorError(f"the monitor gave {len(values)} scores for {len(requests)} prompts ({culprits})")
    return [_checked(request, value) for request, value in zip(requests, values, strict=True)]


def score_texts(monitor: Monitor, texts: Sequence[tuple[Prompt, str]]) -> list[float]:
    """One score per finished text by itself, in order; nothing of them is kept.

    Args:
        monitor: scores them.
        texts: what was asked, and the trace or output that followed.

    Raises:
        MonitorError: as `score`.
    """
    monitor = alone(monitor)
    requests = [ScoreRequest(row, prompt, text) for row, (prompt, text) in enumerate(texts)]
    scores = score(monitor, requests) if requests else []
    for request in requests:
        monitor.release(request.row)
    return scores


def _ask_one_by_one(monitor: Monitor, requests: Sequence[ScoreRequest]) -> None:
    """Find the request on which a batch failed.

    Raises:
        MonitorError: names its prompt; nothing is raised where each request passes alone.
    """
    for request in requests:
        score(monitor, [request])


def _checked(request: ScoreRequest, value: object) -> float:
    number = _as_float(value)
    # Comparisons with NaN are false, so it is refused too.
    if not -1 <= number <= 1:
        raise MonitorError(f"the monitor scored prompt {request.prompt.id!r} {value!r}, which is not in [-1, 1]")
    return number


def _as_float(value: object) -> float:
    """`value` as a number; NaN where it is none, such as an array of several."""
    if isinstance(value, float):
        return value
    try:
        return float(value) if isinstance(value, SupportsFloat) else math.nan
    except (ArithmeticError, RuntimeError, TypeError, ValueError):
        return math.nan
