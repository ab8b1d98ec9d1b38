"""The threshold from harmless prompts: the rule itself, that its promise holds, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from safethink.errors import ConfigError
from safethink.evaluation.risk_control import calibrate, highest_threshold, num_needed

scores = st.floats(-1, 1, allow_nan=False)
coarse = st.sampled_from([-1.0, -0.5, 0.0, 0.3, 1.0])


def test_the_threshold_lets_as_many_prompts_fire_as_the_binomial_allows() -> None:
    """Against the definition, by hand: distinct scores, so that the k-th threshold intervenes on k prompts."""
    minima = np.linspace(-0.9, 0.9, 500)
    found = calibrate(minima.tolist(), limit=0.05, delta=0.05)
    k = found.chosen.interventions
    assert binom.cdf(k, 500, 0.05) <= 0.05 < binom.cdf(k + 1, 500, 0.05)
    assert found.chosen.threshold == pytest.approx(minima[k], abs=1e-6)
    assert (minima < found.chosen.threshold).sum() == k
    assert found.bound <= 0.05


@pytest.mark.slow
@given(st.lists(st.one_of(scores, coarse), min_size=60, max_size=120), st.sampled_from([0.05, 0.1, 0.3, 0.6]))
def test_what_passes_is_certified_and_what_is_higher_is_not(minima: list[float], limit: float) -> None:
    found = calibrate(minima, limit, delta=0.05)
    for each in found.curve:
        assert each.interventions == sum(score < each.threshold for score in minima)
        assert each.p_value == pytest.approx(binom.cdf(each.interventions, len(minima), limit))
        assert each.passes == (each.threshold <= found.chosen.threshold)
        assert each.p_value <= 0.05 or not each.passes
    assert found.bound <= limit + 1e-12
    assert found.chosen in found.curve
    # Just above the next minimum more prompts would fire than the test lets pass, or there is no higher score.
    above = [score for score in minima if score >= found.chosen.threshold + 1e-5]
    if above:
        fires = sum(score <= min(above) for score in minima)
        assert binom.cdf(fires, len(minima), limit) > 0.05 or fires == found.chosen.interventions


@given(st.lists(coarse, min_size=60, max_size=90))
def test_a_laxer_limit_never_lowers_the_threshold(minima: list[float]) -> None:
    thresholds = [highest_threshold(minima, limit) for limit in (0.05, 0.1, 0.2, 0.4)]
    assert thresholds == sorted(thresholds)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["continuous", "two values", "five values", "almost all one"])
@pytest.mark.parametrize(("limit", "n"), [(0.05, 200), (0.01, 400)])
def test_the_promise_holds_over_draws_ties_or_not(kind: str, limit: float, n: int) -> None:
    """Where the true rate is known exactly, no more than about one draw in twenty may miss the limit."""
    rng = np.random.default_rng(0)
    values, shares = {
        "continuous": (np.linspace(-1, 1, 5001), np.full(5001, 1 / 5001)),
        "two values": (np.array([-0.5, 1.0]), np.array([1.05 * limit, 1 - 1.05 * limit])),
        "five values": (np.array([-1, -0.5, 0, 0.5, 1.0]), np.array([0.4, 0.7, 0.3, 0.6, 0]) * limit),
        "almost all one": (np.array([0.0, 0.9999, 1.0]), np.array([0.5 * limit, 0.6 * limit, 0])),
    }[kind]
    shares[-1] = 1 - shares[:-1].sum()
    draws, missed = 1000, 0
    for _ in range(draws):
        threshold = highest_threshold(rng.choice(values, size=n, p=shares).tolist(), limit, delta=0.05)
        missed += shares[values < threshold].sum() > limit
    # Four standard errors above 5 %.
    assert missed / draws <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / draws)


def test_the_promise_is_not_bought_by_firing_at_nothing() -> None:
    """With enough prompts the rate comes close to the limit: a bound that is merely safe would not."""
    rng = np.random.default_rng(1)
    rates = [(highest_threshold(rng.uniform(-1, 1, 4000).tolist(), 0.05) + 1) / 2 for _ in range(50)]
    assert 0.042 < np.mean(rates) < 0.05


@pytest.mark.parametrize(("limit", "delta"), [(0.01, 0.05), (0.05, 0.05), (0.001, 0.1), (0.5, 0.01)])
def test_too_few_prompts_are_refused_with_the_number_needed(limit: float, delta: float) -> None:
    needed = num_needed(limit, delta)
    assert (1 - limit) ** needed <= delta < (1 - limit) ** (needed - 1)
    with pytest.raises(ConfigError, match=f"{needed - 1} harmless prompts are too few .* at least {needed} are needed"):
        calibrate([0.5] * (needed - 1), limit, delta)
    found = calibrate([0.5] * needed, limit, delta)
    assert (found.chosen.threshold, found.chosen.interventions) == (0.5, 0)


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_rates_outside_0_and_1_are_refused(limit: float) -> None:
    with pytest.raises(ConfigError, match="max_false_interventions must lie between 0 and 1"):
        calibrate([0.0] * 500, limit)
    with pytest.raises(ConfigError, match="delta must lie between 0 and 1"):
        calibrate([0.0] * 500, 0.1, limit)


@pytest.mark.parametrize("score", [math.nan, 1.5, -2.0])
def test_what_is_no_score_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="scores lie in"):
        calibrate([0.0] * 100 + [score], 0.1)


def test_the_curve_is_short_and_rises() -> None:
    curve = calibrate(np.random.default_rng(0).uniform(-1, 1, 5000).tolist(), 0.05).curve
    assert len(curve) <= 200
    assert [each.threshold for each in curve] == sorted(each.threshold for each in curve)
    assert [each.rate for each in curve] == sorted(each.rate for each in curve)
