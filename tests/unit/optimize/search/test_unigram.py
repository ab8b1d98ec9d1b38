"""The control: half of the budget on single tokens, the rest on sets of the best, in one order."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.config import UnigramConfig
from optimize.search.journal import LOG
from optimize.search.unigram import best_sets
from safethink.errors import SafeThinkError
from tests.support.toy_search import ALLOWED, Letters, Toy, search

CONFIG = UnigramConfig(length=3, steps=8, candidates=6)


@given(st.lists(st.integers(-5, 5), max_size=7), st.integers(1, 4))
def test_sets_come_cheapest_first_and_each_once(costs: list[int], size: int) -> None:
    costs.sort()
    found = list(best_sets([float(cost) for cost in costs], size))
    assert sorted(found) == list(combinations(range(len(costs)), size))
    sums = [sum(costs[index] for index in chosen) for chosen in found]
    assert sums == sorted(sums)


def test_half_of_the_steps_go_to_single_tokens_and_the_rest_to_sets_of_the_best(tmp_path: Path) -> None:
    toy = Toy()
    archive = search(CONFIG, tmp_path, toy)
    assert [len(ids) for ids in toy.scored] == [1] * 24 + [3] * 24
    singles = sorted(toy.scored[:24], key=toy.total)
    rank = {ids[0]: index for index, ids in enumerate(singles)}
    assert toy.scored[24] == tuple(ids[0] for ids in singles[:3])
    assert all([rank[token] for token in ids] == sorted(rank[token] for token in ids) for ids in toy.scored[24:])
    assert min(archive.ranked(3), key=toy.total) == archive.ranked(3)[0]


def test_a_budget_in_tokens_is_halved_as_well(tmp_path: Path) -> None:
    toy = Toy()
    search(CONFIG.replace(steps=1000, budget_tokens=240), tmp_path, toy)
    assert [len(ids) for ids in toy.scored] == [1] * 12 + [3] * 12


def test_with_few_candidates_there_are_still_tokens_enough_for_a_set(tmp_path: Path) -> None:
    archive = search(UnigramConfig(length=5, steps=8, candidates=1), tmp_path)
    assert [len(ids) for ids in archive.costs] == [1] * 5 + [5, 1, 5]


def test_of_one_token_all_are_scored(tmp_path: Path) -> None:
    toy = Toy()
    archive = search(UnigramConfig(length=1, steps=100, candidates=10), tmp_path, toy)
    assert archive.ranked()[0] == min([(token,) for token in ALLOWED], key=toy.total)


def test_a_token_that_does_not_survive_is_in_no_set(tmp_path: Path) -> None:
    archive = search(CONFIG, tmp_path, vocabulary=Letters(dead=lambda ids: ids[0] % 2 == 0))
    assert archive.ranked(3)
    assert all(token % 2 for ids in archive.ranked(3) for token in ids)


def test_the_first_set_needs_two_steps(tmp_path: Path) -> None:
    with pytest.raises(SafeThinkError, match="ended before a prefix of 3 tokens"):
        search(CONFIG.replace(steps=1), tmp_path)
    assert len((tmp_path / LOG).read_text().splitlines()) == 1
    assert len(search(CONFIG.replace(steps=2), tmp_path).ranked(3)) == 6


def test_of_a_large_vocabulary_the_most_promising_tokens_come_first(tmp_path: Path) -> None:
    toy = Toy()
    search(CONFIG.replace(length=1, steps=2, candidates=5, ranked_by="gradient"), tmp_path, toy)
    # The toy's gradient is exact for single tokens.
    assert toy.scored == sorted(((token,) for token in ALLOWED), key=toy.total)[:10]


def test_by_default_nothing_has_changed() -> None:
    assert "ranked_by" not in CONFIG.model_dump()
