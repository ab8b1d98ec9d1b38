"""A portfolio recovers what its members recover in turn, and is chosen for that."""

from __future__ import annotations

import pytest

from optimize.portfolio import greedy, walks
from optimize.selection import Trial
from safethink.errors import ConfigError

SAMPLES = 2


def trial(recovered: str, passed: str | None = None) -> Trial:
    """One character per (state, seed): `x` for yes."""
    yes, through = ([each == "x" for each in row] for row in (recovered, passed or recovered))
    return Trial(prefix_ids=(), recovered=tuple(yes), accepted=tuple(yes), passed=tuple(through))


def test_the_first_step_that_passes_is_taken():
    flatters = trial("......", passed="xxxxxx")
    heals = trial("xxxxxx")
    assert walks([flatters, heals], SAMPLES) == [False] * 6
    assert walks([heals, flatters], SAMPLES) == [True] * 6


def test_the_last_try_counts_whether_it_passes_or_not():
    unseen = trial("xx....", passed="......")
    assert walks([trial("......"), unseen], SAMPLES) == [True, True, False, False, False, False]


def test_every_try_uses_another_seed():
    one_seed = trial("x.x.x.")
    assert walks([one_seed, one_seed], SAMPLES) == [True] * 6
    no_luck = trial("xx....")
    assert walks([no_luck, no_luck], SAMPLES) == [True, True, False, False, False, False]


def test_members_complement_each_other():
    best, similar, other = trial("xxxx.."), trial("xxx..."), trial("....xx")
    assert greedy([best, similar, other], first=0, size=2, samples=SAMPLES) == [0, 2]


def test_a_portfolio_of_one_is_the_best_alone():
    assert greedy([trial("x....."), trial("xxxxxx")], first=1, size=1, samples=SAMPLES) == [1]


def test_more_tries_than_seeds_are_refused():
    with pytest.raises(ConfigError, match=r"selection.portfolio: 3 tries need as many seeds"):
        greedy([trial("xxxxxx")], first=0, size=3, samples=SAMPLES)
