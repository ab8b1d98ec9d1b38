"""Asks a monitor and believes nothing but scores: whatever else comes back stops the run with the prompt named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, SupportsFloat

from safethink.errors import MonitorError
from safethink.monitors import Monitor, ScoreRequest, alone
from safethink.prompts import Prompt

HOW_TO_SCORE: Final = (
    "return a float, higher is safer, such as -1.0 for a trace to be steered and 1.0 for one that is fine"
)


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
    return [checked(request, value) for request, value in zip(requests, values, strict=True)]


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


def checked(request: ScoreRequest, value: object) -> float:
    """The score of one request, as a float; scalars of numpy and torch are floats too.

    A verdict is none: no score that a bool turns into, 1.0 and 0.0, is below the usual threshold, so that such a
    monitor would never fire. The integer 0 says the same; -1 and 1 are scores.

    Raises:
        MonitorError: it is anything else than a number in [-1, 1], or a verdict; names the prompt and how to score.
    """
    native = _native(value)
    scored = f"the monitor scored prompt {request.prompt.id!r} {value!r}"
    if isinstance(native, bool):
        raise MonitorError(f"{scored}, a verdict and no score: {HOW_TO_SCORE}")
    if isinstance(native, int) and native == 0:
        raise MonitorError(f"{scored}, as a verdict of 0 or 1 would be: {HOW_TO_SCORE}; where you mean 0, return 0.0")
    number = _as_float(native)
    # Comparisons with NaN are false, so it is refused too.
    if not -1 <= number <= 1:
        what = "" if isinstance(native, SupportsFloat) else f" a {type(value).__name__},"
        raise MonitorError(f"{scored},{what} which is not in [-1, 1]: {HOW_TO_SCORE}")
    return number


def _native(value: object) -> object:
    """The Python scalar that an array or tensor of one element holds; anything else as it is."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    # Of several elements: numpy and torch each have an error of their own.
    except (RuntimeError, TypeError, ValueError):
        return value


def _as_float(value: object) -> float:
    """`value` as a number; NaN where it is none, such as an array of several."""
    if isinstance(value, float):
        return value
    try:
        return float(value) if isinstance(value, SupportsFloat) else math.nan
    except (ArithmeticError, RuntimeError, TypeError, ValueError):
        return math.nan
