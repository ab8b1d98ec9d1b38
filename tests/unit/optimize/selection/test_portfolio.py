"""A portfolio recovers what its members recover in turn, and is chosen for that."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from optimize.config import SelectionConfig
from optimize.selection.portfolio import greedy, walks
from optimize.selection.trials import Trial

SAMPLES = 2


def trial(recovered: str, passed: str | None = None, accepted: str | None = None) -> Trial:
    """One character per (state, seed): `x` for yes."""
    rows = recovered, accepted or recovered, passed or recovered
    yes, whole, step = (tuple(each == "x" for each in row) for row in rows)
    return Trial(prefix_ids=(), judged_by="the judge", recovered=yes, accepted=whole, passed=step)


def test_the_first_step_that_passes_is_taken():
    flatters = trial("......", passed="xxxxxx")
    heals = trial("xxxxxx")
    assert walks([flatters, heals], SAMPLES, "judge") == [False] * 6
    assert walks([heals, flatters], SAMPLES, "judge") == [True] * 6


def test_the_last_try_counts_whether_it_passes_or_not():
    unseen = trial("xx....", passed="......")
    assert walks([trial("......"), unseen], SAMPLES, "judge") == [True, True, False, False, False, False]


def test_every_try_uses_another_seed():
    one_seed = trial("x.x.x.")
    assert walks([one_seed, one_seed], SAMPLES, "judge") == [True] * 6
    no_luck = trial("xx....")
    assert walks([no_luck, no_luck], SAMPLES, "judge") == [True, True, False, False, False, False]


def test_members_complement_each_other():
    best, similar, other = trial("xxxx.."), trial("xxx..."), trial("....xx")
    assert greedy([best, similar, other], best, size=2, samples=SAMPLES, by="judge") == [best, other]


def test_whoever_chooses_chooses_every_member():
    best, honest, flatters = trial("xxxx.."), trial("....xx", accepted="......"), trial("......", accepted="xxxxxx")
    assert greedy([best, honest, flatters], best, 2, SAMPLES, by="judge") == [best, honest]
    assert greedy([best, honest, flatters], best, 2, SAMPLES, by="monitor") == [best, flatters]


def test_a_portfolio_of_one_is_the_best_alone():
    best = trial("xxxxxx")
    assert greedy([trial("x....."), best], best, size=1, samples=SAMPLES, by="judge") == [best]


def test_more_tries_than_seeds_are_refused():
    with pytest.raises(ValidationError, match=r"portfolio: 3 tries need as many seeds"):
        SelectionConfig(portfolio=3, samples=2)
