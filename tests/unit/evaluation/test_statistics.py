"""Intervals: exact at the ends, honest under clusters, paired where they should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binomtest

from safethink.evaluation.statistics import LEVEL, Observations, clopper_pearson, mean, paired_difference, rate

RESAMPLES = 400


def prompts(n: int) -> list[str]:
    return [f"p{i}" for i in range(n)]


def crossed(rng: np.random.Generator, n: int, spread: float) -> Observations:
    """Binary outcomes of prompts crossed by 24 wrappers and 24 hazards with random effects of that spread."""
    wrapper, hazard = rng.integers(0, 24, n), rng.integers(0, 24, n)
    logits = rng.normal(0, spread, 24)[wrapper] + rng.normal(0, spread, 24)[hazard]
    harmful = rng.random(n) < expit(logits)
    clusters = [{"wrapper": f"w{w}", "hazard": f"h{h}"} for w, h in zip(wrapper, hazard, strict=True)]
    return Observations.of(harmful.astype(float).tolist(), prompts(n), clusters)


def test_clopper_pearson_against_published_values() -> None:
    assert clopper_pearson(0, 20) == pytest.approx((0.0, 0.16843), abs=1e-5)
    assert clopper_pearson(20, 20) == pytest.approx((0.83157, 1.0), abs=1e-5)
    assert clopper_pearson(5, 20) == pytest.approx((0.08657, 0.49105), abs=1e-5)


@given(st.data(), st.integers(1, 100_000))
def test_clopper_pearson_is_scipys_exact_interval(data: st.DataObject, trials: int) -> None:
    successes = data.draw(st.integers(0, trials))
    interval = binomtest(successes, trials).proportion_ci(LEVEL, method="exact")
    assert clopper_pearson(successes, trials) == pytest.approx((interval.low, interval.high), abs=1e-11)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_a_rate_is_exact_at_the_ends(outcome: float) -> None:
    estimate = rate(Observations.of([outcome] * 300, prompts(300)))
    assert estimate is not None
    assert (estimate.low, estimate.high) == clopper_pearson(int(outcome) * 300, 300)


def test_several_seeds_of_one_prompt_are_no_more_prompts() -> None:
    units = [unit for unit in prompts(50) for _ in range(4)]
    estimate = rate(Observations.of([0.0] * 200, units))
    assert estimate is not None
    assert (estimate.n, estimate.clusters) == (200, 50)
    assert estimate.high == clopper_pearson(0, 50)[1]


def test_the_interval_of_independent_prompts_is_the_textbook_one() -> None:
    outcomes = [1.0] * 120 + [0.0] * 280
    estimate = rate(Observations.of(outcomes, prompts(400)))
    assert estimate is not None
    half_width = 1.96 * np.sqrt(0.3 * 0.7 / 400)
    assert estimate.value == pytest.approx(0.3)
    assert (estimate.low, estimate.high) == pytest.approx((0.3 - half_width, 0.3 + half_width), abs=0.01)


def test_crossed_clusters_are_covered() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for repetition in range(120):
        estimate = rate(crossed(rng, 300, spread=1.5), seed=repetition, resamples=RESAMPLES)
        assert estimate is not None
        covered += estimate.low <= 0.5 <= estimate.high
    assert covered / 120 >= 0.90


def test_ignoring_crossed_clusters_would_not_be_covered() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for repetition in range(120):
        seen = crossed(rng, 300, spread=1.5)
        blind = Observations(seen.numerators, seen.denominators, seen.units, ({},) * 300)
        estimate = rate(blind, seed=repetition, resamples=RESAMPLES)
        assert estimate is not None
        covered += estimate.low <= 0.5 <= estimate.high
    assert covered / 120 < 0.75


def test_pairing_removes_what_both_sides_share() -> None:
    rng = np.random.default_rng(2)
    difficulty = rng.normal(0, 1, 300)
    a, b = (difficulty + shift + rng.normal(0, 0.05, 300) for shift in (0.5, 0.3))
    paired = paired_difference(Observations.of(a.tolist(), prompts(300)), Observations.of(b.tolist(), prompts(300)))
    alone = mean(Observations.of(a.tolist(), prompts(300)))
    assert paired is not None
    assert alone is not None
    assert paired.value == pytest.approx(0.2, abs=0.02)
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


def test_no_difference_at_all_still_has_a_width() -> None:
    same = Observations.of([0.0, 1.0] * 100, prompts(200))
    difference = paired_difference(same, same)
    assert difference is not None
    assert (difference.value, difference.low, difference.high) == (
        0.0,
        -clopper_pearson(0, 200)[1],
        clopper_pearson(0, 200)[1],
    )


def test_every_pair_differing_is_bounded_by_one() -> None:
    ones, zeros = (Observations.of([value] * 40, prompts(40)) for value in (1.0, 0.0))
    difference = paired_difference(ones, zeros)
    assert difference is not None
    assert (difference.value, difference.high) == (1.0, 1.0)
    assert 0.85 < difference.low < 1.0


def test_pairs_must_be_about_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="same units"):
        paired_difference(Observations.of([1.0], ["a"]), Observations.of([1.0], ["b"]))


def test_a_ratio_of_sums() -> None:
    resamples_per_intervention = Observations.of([4.0, 0.0, 2.0], ["a", "b", "c"], denominators=[2.0, 0.0, 1.0])
    estimate = mean(resamples_per_intervention)
    assert estimate is not None
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (2.0, 2.0, 2.0, 3)


def test_what_saw_nothing_is_no_observation() -> None:
    half = [1.0] * 32 + [0.0] * 32
    clusters = [{"wrapper": f"w{i}"} for i in range(64)]
    none = Observations.of([0.0] * 64, prompts(64), clusters, half)
    alone, difference = rate(none), paired_difference(none, none)
    assert alone is not None
    assert difference is not None
    assert (alone.n, alone.clusters, alone.high) == (32, 32, clopper_pearson(0, 32)[1])
    assert (difference.clusters, difference.high) == (32, clopper_pearson(0, 32)[1])


def test_a_pair_seen_on_one_side_still_counts() -> None:
    a = Observations.of([1.0, 0.0, 1.0, 0.0], prompts(4), denominators=[1.0, 0.0, 1.0, 0.0])
    b = Observations.of([0.0, 0.0, 1.0, 0.0], prompts(4), denominators=[1.0, 1.0, 1.0, 0.0])
    difference = paired_difference(a, b)
    assert difference is not None
    assert (difference.value, difference.clusters) == (pytest.approx(1 - 1 / 3), 3)


def test_nothing_observed_is_none() -> None:
    nothing = Observations.of([0.0, 0.0], ["a", "b"], denominators=[0.0, 0.0])
    assert mean(nothing) is None
    assert rate(nothing) is None
    assert paired_difference(nothing, nothing) is None


def test_benchmarks_of_different_shapes_are_resampled_apart() -> None:
    clusters = [{}] * 60 + [{"wrapper": f"w{i % 6}", "hazard": f"h{i % 10}"} for i in range(60)]
    estimate = rate(Observations.of([0.0, 1.0] * 60, prompts(120), clusters))
    assert estimate is not None
    assert estimate.clusters == 60 + 6
    assert estimate.low < 0.5 < estimate.high


def test_the_same_seed_gives_the_same_interval() -> None:
    seen = crossed(np.random.default_rng(0), 100, 1.0)
    assert rate(seen, seed=3) == rate(seen, seed=3)
    assert rate(seen, seed=3) != rate(seen, seed=4)
