"""Racing finds what full scoring finds, scores less, and says of every candidate whether its cost is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimize.config import RacingConfig
from optimize.objectives.racing import race

CONTEXTS = 16


class Table:
    """Costs that are known; notes what is looked up."""

    def __init__(self, costs: torch.Tensor) -> None:
        self.costs, self.calls = costs, []

    def __call__(self, candidates, contexts) -> torch.Tensor:
        self.calls.append((list(candidates), list(contexts)))
        return self.costs[list(candidates)][:, list(contexts)]


def costs(seed: int, candidates: int = 64, noise: float = 0.1) -> torch.Tensor:
    """Candidates differ, contexts differ more, and a candidate is a little better or worse in each."""
    generator = torch.Generator().manual_seed(seed)
    worth, hard = torch.rand(candidates, 1, generator=generator), 5 * torch.rand(1, CONTEXTS, generator=generator)
    return worth + hard + noise * torch.randn(candidates, CONTEXTS, generator=generator)


@pytest.mark.parametrize("seed", range(20))
def test_the_winner_is_within_a_percent_of_full_scorings_for_well_under_half_the_work(seed):
    table = Table(costs(seed))
    result = race(table, 64, range(CONTEXTS), RacingConfig())
    exact = table.costs.mean(1)
    assert exact[result.winner] <= exact.min() * 1.01
    assert result.num_evaluations == sum(len(some) * len(contexts) for some, contexts in table.calls)
    assert result.num_evaluations < 64 * CONTEXTS / 2


def test_exact_costs_are_means_over_all_contexts_and_the_others_are_paired_estimates():
    table = Table(costs(0))
    result = race(table, 64, range(CONTEXTS), RacingConfig())
    truth = table.costs.mean(1).double()
    assert 0 < result.exact.sum() < 64
    torch.testing.assert_close(result.estimates[result.exact], truth[result.exact], atol=1e-6, rtol=0)
    torch.testing.assert_close(result.estimates, truth, atol=0.25, rtol=0)
    assert (result.estimates >= result.estimates[result.winner]).all()
    assert torch.equal(result.exact, result.num_contexts == CONTEXTS)


def test_heats_double_the_contexts_in_the_order_given():
    order = torch.randperm(CONTEXTS, generator=torch.Generator().manual_seed(1)).tolist()
    table = Table(costs(0))
    race(table, 64, order, RacingConfig(first_contexts=3, keep=4))
    assert [contexts for _, contexts in table.calls] == [order[:3], order[3:6], order[6:12], order[12:]]
    assert table.calls[0][0] == list(range(64))


def test_no_more_than_a_share_of_a_heat_goes_on_and_it_is_the_cheapest_share():
    table = Table(costs(0, noise=5.0))
    config = RacingConfig(first_contexts=4, keep=1, keep_share=0.25, confidence=0.9999)
    result = race(table, 64, range(CONTEXTS), config)
    assert [len(some) for some, _ in table.calls] == [64, 16, 4]
    first = table.costs[:, :4].mean(1)
    assert table.calls[1][0] == sorted(first.argsort()[:16].tolist())
    assert result.exact.sum() == 4


def test_whoever_is_surely_worse_than_the_incumbent_is_dropped_and_nobody_left_ends_the_race():
    table = Table(costs(0))
    best = table.costs[int(table.costs.mean(1).argmin())].double()
    hopeless = race(table, 64, range(CONTEXTS), RacingConfig(keep=0), incumbent=best - 10)
    assert hopeless.winner is None
    assert not hopeless.exact.any()
    assert hopeless.num_evaluations == 64 * 2
    torch.testing.assert_close(hopeless.estimates, table.costs.mean(1).double(), atol=0.25, rtol=0)
    kept = race(table, 64, range(CONTEXTS), RacingConfig(keep=3), incumbent=best - 10)
    assert kept.exact.sum() == 3, "a method that keeps several gets them"
    easy = race(table, 64, range(CONTEXTS), RacingConfig(keep=8), incumbent=best + 10)
    assert easy.winner == race(table, 64, range(CONTEXTS), RacingConfig(keep=8)).winner
    assert easy.exact.sum() >= 8


def test_the_incumbent_is_compared_in_the_order_in_which_contexts_are_run():
    order = torch.randperm(CONTEXTS, generator=torch.Generator().manual_seed(1)).tolist()
    table = Table(costs(0, noise=0.0))
    worst = table.costs[int(table.costs.mean(1).argmax())].double()
    assert race(table, 64, order, RacingConfig(keep=0), incumbent=worst[order]).winner is not None
    best = table.costs.min(0).values.double() - 0.01
    assert race(table, 64, order, RacingConfig(keep=0), incumbent=best[order]).winner is None


@given(
    candidates=st.integers(1, 12),
    contexts=st.integers(1, 12),
    first=st.integers(2, 8),
    keep=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_at_least_keep_survive_whatever_the_sizes(candidates, contexts, first, keep, seed):
    generator = torch.Generator().manual_seed(seed)
    table = Table(torch.randn(candidates, contexts, generator=generator))
    result = race(table, candidates, range(contexts), RacingConfig(first_contexts=first, keep=keep))
    assert result.exact.sum() >= min(max(1, keep), candidates)
    assert result.exact[result.winner]
    assert result.estimates.isfinite().all()


def test_equal_candidates_all_survive():
    table = Table(torch.ones(6, CONTEXTS))
    assert race(table, 6, range(CONTEXTS), RacingConfig(keep=1)).exact.all()


def test_what_is_dropped_though_it_is_best_is_rare_where_contexts_disagree():
    """Where a candidate's worth differs much between contexts, the test keeps more of them."""
    calm, noisy = Table(costs(3, noise=0.05)), Table(costs(3, noise=0.5))
    few = race(calm, 64, range(CONTEXTS), RacingConfig()).num_evaluations
    assert race(noisy, 64, range(CONTEXTS), RacingConfig()).num_evaluations > few
