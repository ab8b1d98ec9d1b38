"""Threshold calibration that bounds false interventions: learn-then-test (arXiv 2110.01052).

Of each harmless prompt only its minimum score m over the steps of an unguarded trace matters: up to its first
intervention a guarded trace is the unguarded one, so a threshold t intervenes on the prompt if and only if m < t. Its
rate R(t) = P(m < t) rises with t. For one t, the number K of n prompts with m < t is binomial, and

    p(t) = P(Binomial(n, limit) <= K)

is a valid p-value of "R(t) is above the limit" (section 1.1 there; exact, so Hoeffding's bound is not needed). The
candidates are tested from low to high, each at level delta, until the first that is not rejected: fixed-sequence
testing, so that with probability 1 - delta over the n prompts no threshold that was let pass is above the limit.

Because R only rises, the candidates may be the observed minima themselves. Let t* be the highest threshold whose rate
is within the limit. To be wrong is to pass some t > t*. Then at most K(t) of the n minima are at or below t*, while
P(m <= t*) is at least the limit: the very event whose probability p(t) <= delta bounds by delta. Ties and scores that
take few values only make it rarer. What all this rests on is that the n prompts are independent draws of those to come,
one trace each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.stats import beta, binom

from safethink.errors import ConfigError
from safethink.evaluation.statistics import clopper_pearson

DIGITS: Final = 6
"""A threshold is rounded down to so many digits: scores differ in the last ones from batch to batch, and a lower
threshold never intervenes more often."""
CURVE_ROWS: Final = 200
"""The most rows of the curve."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One threshold and what it would have done to the calibration prompts.

    Attributes:
        threshold: a step intervenes below it.
        interventions: prompts that would have seen one.
        rate: their share.
        low: lower end of its exact 95 % interval.
        high: upper end of its exact 95 % interval.
        p_value: of the rate being above the limit.
        passes: whether it and all lower ones were let pass.
    """

    threshold: float
    interventions: int
    rate: float
    low: float
    high: float
    p_value: float
    passes: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        limit: the highest rate of harmless prompts with an intervention that is tolerated.
        delta: the probability with which the limit may be missed.
        n: prompts it rests on.
        bound: upper bound of the rate at the threshold, with confidence 1 - delta; at most `limit`.
        chosen: the highest threshold that passes.
        curve: rising thresholds, `chosen` among them, each with its test.
    """

    limit: float
    delta: float
    n: int
    bound: float
    chosen: Candidate
    curve: tuple[Candidate, ...]


def num_needed(limit: float, delta: float) -> int:
    """The fewest prompts that can certify any threshold: (1 - limit)^n <= delta, with no intervention among them.

    Raises:
        ConfigError: a rate or a probability that is not between 0 and 1.
    """
    for name, value in (("max_false_interventions", limit), ("delta", delta)):
        if not 0 < value < 1:
            raise ConfigError(f"{name} must lie between 0 and 1, both excluded, not {value}")
    return math.ceil(math.log(delta) / math.log1p(-limit))


def refuse_too_few(n: int, limit: float, delta: float) -> None:
    """Refuse a number of prompts that cannot certify any threshold.

    Raises:
        ConfigError: with the number that is needed.
    """
    needed = num_needed(limit, delta)
    if n < needed:
        raise ConfigError(
            f"{n} harmless prompts are too few to keep interventions under {limit:g} with confidence {1 - delta:g}: "
            f"at least {needed} are needed"
        )


def calibrate(minima: Sequence[float], limit: float, delta: float = 0.05) -> Calibration:
    """Find the highest threshold that surely keeps a limit, and what other thresholds would do.

    Args:
        minima: the lowest score of each harmless prompt's trace, one trace each.
        limit: the highest rate of prompts with an intervention that is tolerated.
        delta: the probability with which it may be missed.

    Raises:
        ConfigError: a rate or probability that is not between 0 and 1, or too few prompts; the number needed is named.
        ValueError: a score that is not in [-1, 1].
    """
    chosen = highest_threshold(minima, limit, delta)
    ordered = np.sort(np.asarray(minima, dtype=float))
    n = len(ordered)
    grid = _grid(ordered, chosen)
    counts = np.searchsorted(ordered, grid, side="left")
    curve = tuple(
        _candidate(value, int(count), n, limit, value <= chosen)
        for value, count in zip(grid.tolist(), counts, strict=True)
    )
    found = next(each for each in curve if each.threshold == chosen)
    return Calibration(limit, delta, n, _upper(found.interventions, n, delta), found, curve)


def highest_threshold(minima: Sequence[float], limit: float, delta: float = 0.05) -> float:
    """The highest threshold that passes, rounded down; arguments and errors are those of `calibrate`."""
    n = len(minima)
    refuse_too_few(n, limit, delta)
    ordered = np.sort(np.asarray(minima, dtype=float))
    if not (np.abs(ordered) <= 1).all():
        raise ValueError("scores lie in [-1, 1]")
    # P-values rise with the number of interventions: the last that passes is all that testing in sequence finds.
    p_values = binom.cdf(np.arange(n + 1), n, limit)
    allowed = int(np.searchsorted(p_values, delta, side="right")) - 1
    # No more than so many minima are below this one, and of a higher threshold that cannot be said.
    return _rounded_down(float(ordered[allowed]))


def _rounded_down(threshold: float) -> float:
    scale = 10**DIGITS
    return max(-1.0, math.floor(threshold * scale) / scale)


def _grid(ordered: np.ndarray, threshold: float) -> np.ndarray:
    """Rising thresholds for the curve: the minima, thinned out evenly by rank, and the chosen one."""
    ranks = np.linspace(0, len(ordered) - 1, min(len(ordered), CURVE_ROWS - 1)).round().astype(int)
    return np.unique(np.append(ordered[ranks], threshold))


def _candidate(threshold: float, interventions: int, n: int, limit: float, passes: bool) -> Candidate:
    low, high = clopper_pearson(interventions, n)
    p_value = float(binom.cdf(interventions, n, limit))
    return Candidate(threshold, interventions, interventions / n, low, high, p_value, passes)


def _upper(interventions: int, n: int, delta: float) -> float:
    """One-sided exact upper bound on a binomial rate (Clopper and Pearson, 1934)."""
    return float(beta.ppf(1 - delta, interventions + 1, n - interventions)) if interventions < n else 1.0
