"""Rates, means and paired differences with their 95 % intervals. Pure functions over numpy arrays.

Prompts are not independent: those that share a wrapper or a hazard succeed and fail together. So intervals come from a
bootstrap over clusters, and where prompts are crossed by two factors both are resampled at once. An observation whose
denominator is 0 saw nothing: it counts neither as a unit nor as a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Final, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy.stats import beta

LEVEL: Final = 0.95
"""Coverage of every interval."""
RESAMPLES: Final = 2000
"""Bootstrap resamples behind every interval."""

Design: TypeAlias = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Of each observation its unit, and its group under every factor."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the estimate.
        low: lower end of the 95 % interval.
        high: upper end of the 95 % interval.
        n: how many observations it rests on.
        clusters: how many independent groups these fall into, counted along the scarcer factor.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int


@dataclass(frozen=True)
class Observations:
    """Observations of a ratio of two sums, such as a rate (harmful / prompts).

    Attributes:
        numerators: one per observation.
        denominators: one per observation; ones for a rate or a mean over prompts.
        units: what each observation is about, a prompt's id; observations of one unit stay together.
        clusters: for each observation its group under every factor, `{"wrapper": ..., "hazard": ...}`; an empty mapping
            where the unit itself is the only group.
    """

    numerators: Float[ndarray, " n"]
    denominators: Float[ndarray, " n"]
    units: tuple[str, ...]
    clusters: tuple[Mapping[str, str], ...]

    def __post_init__(self) -> None:
        assert len(self.numerators) == len(self.denominators) == len(self.units) == len(self.clusters)

    @classmethod
    def of(
        cls,
        values: Sequence[float],
        units: Sequence[str],
        clusters: Sequence[Mapping[str, str]] | None = None,
        denominators: Sequence[float] | None = None,
    ) -> Observations:
        """Observations of a mean, or of a ratio where `denominators` are given."""
        return cls(
            np.asarray(values, dtype=float),
            np.ones(len(values)) if denominators is None else np.asarray(denominators, dtype=float),
            tuple(units),
            tuple(clusters) if clusters is not None else tuple(dict[str, str]() for _ in values),
        )

    def only(self, kept: Bool[ndarray, " n"]) -> Observations:
        """The observations where `kept` is true."""
        return Observations(
            self.numerators[kept],
            self.denominators[kept],
            tuple(compress(self.units, kept)),
            tuple(compress(self.clusters, kept)),
        )

    @property
    def design(self) -> Design:
        """Cluster of each observation, as one hashable value."""
        return tuple((unit, tuple(sorted(own.items()))) for unit, own in zip(self.units, self.clusters, strict=True))

    @property
    def value(self) -> float:
        """The ratio of the sums."""
        return float(self.numerators.sum() / self.denominators.sum())

    @property
    def is_binary(self) -> bool:
        """Whether every observation is a yes or a no."""
        return bool(np.isin(self.numerators, (0.0, 1.0)).all() and (self.denominators == 1.0).all())

    @property
    def count(self) -> int:
        """Number of observations that count: the sum of the denominators."""
        return round(self.denominators.sum())


def rate(seen: Observations, seed: int = 0, resamples: int = RESAMPLES) -> Estimate | None:
    """Estimate a share in [0, 1]; its interval is exact at 0 and 1 (Clopper-Pearson over the units).

    Returns:
        The estimate; None where nothing was observed.
    """
    seen = seen.only(seen.denominators > 0)
    estimate = mean(seen, seed, resamples)
    if estimate is None or 0.0 < estimate.value < 1.0:
        return estimate
    units = len(set(seen.units))
    low, high = clopper_pearson(round(estimate.value) * units, units)
    return Estimate(estimate.value, low, high, estimate.n, estimate.clusters)


def mean(seen: Observations, seed: int = 0, resamples: int = RESAMPLES) -> Estimate | None:
    """Estimate a mean, or a ratio of sums, with a bootstrap interval.

    Returns:
        The estimate; None where nothing was observed.
    """
    seen = seen.only(seen.denominators > 0)
    if not seen.units:
        return None
    low, high = _percentiles(_resampled_ratios(seen, _weights(seen.design, seed, resamples)))
    value = seen.value
    # Where all observations are alike, the sums of a resample round to either side of them.
    return Estimate(value, min(low, value), max(high, value), seen.count, count_clusters(seen))


def resampled(
    statistic: Callable[[Float[ndarray, "resamples n"]], Float[ndarray, " resamples"]],
    seen: Observations,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Estimate what is no ratio of sums, such as an area under a curve, with a bootstrap interval.

    Args:
        statistic: its value under each row of weights, how often each observation was drawn; NaN where it has none.
        seen: the observations; only their units and clusters matter.
        seed: seeds the bootstrap.
        resamples: bootstrap resamples.
    """
    (value,) = statistic(np.ones((1, len(seen.units))))
    low, high = _percentiles(statistic(_weights(seen.design, seed, resamples)))
    return Estimate(float(value), low, high, len(seen.units), count_clusters(seen))


def paired_difference(a: Observations, b: Observations, seed: int = 0, resamples: int = RESAMPLES) -> Estimate | None:
    """Estimate the ratio of `a` minus the ratio of `b`, both resampled together.

    Where outcomes are 0 or 1 and no pair differs, or every pair does, the interval is exact: no more than the
    Clopper-Pearson bound on the share of units that would have been otherwise.

    Args:
        a: observations of one side.
        b: the same units and samples, in the same order, of the other side.
        seed: seeds the bootstrap.
        resamples: bootstrap resamples.

    Returns:
        The estimate; None where either side is empty.

    Raises:
        ValueError: the two sides are not about the same units in the same order.
    """
    if a.units != b.units:
        raise ValueError("a paired difference needs the same units on both sides, in the same order")
    seen = (a.denominators > 0) | (b.denominators > 0)
    a, b = a.only(seen), b.only(seen)
    if not a.denominators.sum() or not b.denominators.sum():
        return None
    weights = _weights(a.design, seed, resamples)
    value = a.value - b.value
    low, high = _percentiles(_resampled_ratios(a, weights) - _resampled_ratios(b, weights))
    pairs = a.numerators - b.numerators
    if a.is_binary and b.is_binary and np.all(pairs == pairs[0]):
        units = len(set(a.units))
        slack = clopper_pearson(0, units)[1]
        low, high = max(-1.0, value - slack), min(1.0, value + slack)
    return Estimate(value, low, high, min(a.count, b.count), count_clusters(a))


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Exact 95 % interval of a binomial rate (Clopper and Pearson, Biometrika 26, 1934)."""
    tail = (1.0 - LEVEL) / 2
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if successes else 0.0
    high = float(beta.ppf(1.0 - tail, successes + 1, trials - successes)) if successes < trials else 1.0
    return low, high


def count_clusters(seen: Observations) -> int:
    """Number of clusters that the observations fall into, along the factor that has the fewest."""
    return sum(min(len(set(groups)) for groups in factors) for _, factors in _strata(seen.design))


def _strata(design: Design) -> list[tuple[Int[ndarray, " members"], list[list[str]]]]:
    """Split the observations by which factors they are crossed by: (their indices, their groups under each factor)."""
    crossed_by = [tuple(factor for factor, _ in clusters) for _, clusters in design]
    strata: list[tuple[Int[ndarray, " members"], list[list[str]]]] = []
    for factors in sorted(set(crossed_by)):
        members = [index for index, own in enumerate(crossed_by) if own == factors]
        groups = [[design[index][1][place][1] for index in members] for place in range(len(factors))]
        strata.append((np.asarray(members), groups or [[design[index][0] for index in members]]))
    return strata


@lru_cache(maxsize=4)
def _weights(design: Design, seed: int, resamples: int) -> Float[ndarray, "resamples n"]:
    """Multiplicity of each observation in each resample.

    Along one factor this is the cluster bootstrap. Under crossed factors the weights of the factors are multiplied: the
    pigeonhole bootstrap (Owen, Annals of Applied Statistics 1(2), 2007), which errs on the side of wide intervals.
    Observations under other factors, such as those of another benchmark, are a stratum of their own. Quantities seen on
    the same prompts share their draws, so that they are paired and drawn once.
    """
    rng = np.random.default_rng(seed)
    weights = np.empty((resamples, len(design)))
    for members, factors in _strata(design):
        weights[:, members] = 1.0
        for groups in factors:
            _, index = np.unique(np.asarray(groups), return_inverse=True)
            weights[:, members] *= _draws(rng, int(index.max()) + 1, resamples)[:, index]
    return weights


def _draws(rng: np.random.Generator, size: int, resamples: int) -> Int[ndarray, "resamples size"]:
    """Multiplicity of each of `size` clusters when `size` are drawn with replacement."""
    drawn = rng.integers(size, size=(resamples, size)) + size * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)


def _resampled_ratios(seen: Observations, weights: Float[ndarray, "resamples n"]) -> Float[ndarray, " resamples"]:
    totals = weights @ seen.denominators
    drawn = totals > 0
    ratios = np.full(len(weights), np.nan)
    ratios[drawn] = (weights @ seen.numerators)[drawn] / totals[drawn]
    return ratios


def _percentiles(ratios: Float[ndarray, " resamples"]) -> tuple[float, float]:
    tail = (1.0 - LEVEL) / 2
    low, high = np.nanquantile(ratios, (tail, 1.0 - tail))
    return float(low), float(high)
