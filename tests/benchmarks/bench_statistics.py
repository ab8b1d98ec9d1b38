"""Intervals for a whole table, and how often they cover the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from scipy.special import expit

from safethink.evaluation.statistics import Observations, clopper_pearson, rate
from tests.benchmarks.frame import BenchRow

REPETITIONS = 600


def rows() -> Iterator[BenchRow]:
    """Seconds for 8 rows x 13 columns of 300 prompts, and coverage with and without random effects."""
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(8 * 13):
        rate(_crossed(rng, spread=1.0))
    seconds = time.perf_counter() - started
    yield BenchRow("statistics_table_seconds", seconds, seconds, seconds, target=5.0, direction="at_most")
    for spread in (0.0, 1.0, 2.0):
        hits = sum(_covers(_crossed(rng, spread), seed) for seed in range(REPETITIONS))
        low, high = clopper_pearson(hits, REPETITIONS)
        note = "nominal 0.95; the pigeonhole bootstrap errs on the wide side where effects are small"
        yield BenchRow(f"coverage_spread_{spread:g}", hits / REPETITIONS, low, high, target=0.92, note=note)


def _covers(seen: Observations, seed: int) -> bool:
    estimate = rate(seen, seed=seed, resamples=600)
    return estimate is not None and estimate.low <= 0.5 <= estimate.high


def _crossed(rng: np.random.Generator, spread: float) -> Observations:
    """300 prompts crossed by 24 wrappers and 24 hazards, whose random effects on the logit have that spread."""
    wrapper, hazard = rng.integers(0, 24, 300), rng.integers(0, 24, 300)
    logits = rng.normal(0, 1, 24)[wrapper] * spread + rng.normal(0, 1, 24)[hazard] * spread
    outcomes = (rng.random(300) < expit(logits)).astype(float).tolist()
    clusters = [{"wrapper": str(w), "hazard": str(h)} for w, h in zip(wrapper, hazard, strict=True)]
    return Observations.of(outcomes, [str(i) for i in range(300)], clusters)
