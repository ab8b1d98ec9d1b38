"""Edits of a prefix, and the options of GCG that use them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from optimize.config import GcgConfig
from optimize.search import edits
from optimize.search.gcg import Gcg
from optimize.search.method import Archive, Ids, Scored
from tests.support.toy_search import ALLOWED, Letters, Toy, search

SETTINGS = {"length": 4, "steps": 8, "candidates": 24, "top_k": 6, "patience": 20, "pair_share": 0.0}


def scored(ids: Ids, cost: float) -> Scored:
    return Scored(ids, cost, {"total": cost})


def differing(a: Ids, b: Ids) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def test_tried_edits_are_not_promising() -> None:
    allowed, archive = torch.tensor([3, 4, 5, 6]), Archive()
    archive.add([(3, 4), (3, 6), (5, 4), (6, 6)], [1.0] * 4, [True] * 4)
    tried = edits.tried((3, 4), allowed, archive)
    assert tried.tolist() == [[True, False, True, False], [False, True, False, True]]
    promise = torch.tensor([[0.0, 2.0, 0.0, 1.0], [9.0, 0.0, 8.0, 0.0]])
    assert edits.promising(promise, tried, allowed, 1) == [(0, 6), (1, 5)]
    assert edits.promising(promise, tried, allowed, 3) == [(0, 6), (0, 4), (1, 5), (1, 3)]


def test_merging_puts_the_best_single_edits_together_one_after_the_other() -> None:
    parent = (1, 1, 1, 1)
    came = [
        scored((1, 1, 1, 9), 0.4),
        scored((1, 7, 1, 1), 0.1),
        scored((1, 8, 1, 1), 0.2),
        scored((6, 1, 1, 1), 0.3),
        scored((5, 5, 1, 1), 0.0),
    ]
    assert edits.merged(parent, came, 4) == [(6, 7, 1, 1), (6, 7, 1, 9)]
    assert edits.merged(parent, came, 3) == [(6, 7, 1, 1)]
    assert edits.merged(parent, came, 1) == edits.merged(parent, came, 0) == edits.merged(parent, [], 4) == []


@pytest.mark.parametrize("places", [1, 2, 3, 5])
def test_several_edits_are_at_different_places(places: int) -> None:
    single = [(place, token) for place in (0, 2, 3) for token in range(20)]
    groups = edits.several(single, places, torch.Generator().manual_seed(0))
    assert len(groups) == len(single)
    for group in groups:
        assert len({place for place, _ in group}) == len(group) == min(places, 3)
        assert set(group) <= set(single)
    assert len({edit for group in groups for edit in group}) > len(single) / 2
    assert edits.several([], places, torch.Generator()) == []


def test_primed_edits_put_tokens_anywhere_as_often_as_they_come() -> None:
    changes = edits.primed(3, [5, 5, 5, 9], 0.25, 3000, torch.Generator().manual_seed(0))
    assert len(changes) == 1000
    assert {change[0] for change in changes} == {(place, token) for place in range(3) for token in (5, 9)}
    assert sum(token == 5 for ((_, token),) in changes) == pytest.approx(750, abs=60)
    assert edits.primed(3, [], 0.25, 3000, torch.Generator()) == []


def test_a_share_of_the_candidates_puts_tokens_of_the_targets_in_place() -> None:
    config = GcgConfig(**SETTINGS | {"top_k": 2, "target_share": 0.5})
    targets, toy, archive = [(20, 21), (21, 99)], Toy(), Archive()
    method = Gcg(config, toy, Letters(), (3, 4, 5, 6), archive, targets)
    (start,) = method.propose(torch.Generator().manual_seed(0))
    archive.add([start], [toy.total(start)], [True])
    method.observe([scored(start, toy.total(start))])
    proposed = method.propose(torch.Generator().manual_seed(1))
    gradient = toy.coordinate_gradient(torch.tensor(start), torch.tensor(ALLOWED))
    promised = {
        edits.edited(start, [(place, ALLOWED[column])])
        for place, columns in enumerate(gradient.topk(3, largest=False).indices.tolist())
        for column in columns
    }
    primed = set(proposed) - promised
    assert primed
    assert all(differing(start, ids) == 1 and set(ids) - set(start) <= {20, 21} for ids in primed), "99 is not allowed"


def walk(config: GcgConfig) -> list[tuple[Ids, list[Ids], list[Ids]]]:
    """Of every step: what was edited, what was proposed, and what was scored of it."""
    toy, archive, out = Toy(), Archive(), []
    method = Gcg(config, toy, Letters(), (3, 4, 5, 6), archive)
    for step in range(config.steps):
        proposed = method.propose(torch.Generator().manual_seed(step))
        fresh = proposed[: config.candidates]
        totals = toy.cost(fresh).total.tolist()
        archive.add(fresh, totals, [True] * len(fresh))
        method.observe([scored(ids, total) for ids, total in zip(fresh, totals, strict=True)])
        out.append((_parent(proposed), proposed, fresh))
    return out


def _parent(proposed: list[Ids]) -> Ids:
    """What was edited: the token that most proposals agree on, place by place."""
    return tuple(max(set(column), key=column.count) for column in zip(*proposed, strict=True))


def test_with_its_options_off_the_cheapest_is_edited_one_place_or_two_at_a_time() -> None:
    best: list[Ids] = []
    for parent, proposed, fresh in walk(GcgConfig(**SETTINGS | {"pair_share": 0.25})):
        if best:
            assert parent == best[0]
            assert {differing(parent, ids) for ids in proposed} == {1, 2}
        best = sorted([*best, *fresh], key=Toy().total)


@pytest.mark.parametrize(("budget_tokens", "expected"), [(None, [3, 2, 2, 1, 1, 1, 1]), (600, [3, 1, 1, 1, 1, 1, 1])])
def test_many_places_are_edited_early_and_one_late(budget_tokens: int | None, expected: list[int]) -> None:
    config = GcgConfig(**SETTINGS, first_edits=4, budget_tokens=budget_tokens)
    best: list[Ids] = []
    changed = []
    for _, proposed, fresh in walk(config):
        changed += [{differing(best[0], ids) for ids in proposed}] if best else []
        best = sorted([*best, *fresh], key=Toy().total)
    assert changed == [{places} for places in expected]


def test_merged_edits_are_proposed_ahead_of_the_next_step() -> None:
    steps = walk(GcgConfig(**SETTINGS, merge=8))
    for (parent, _, fresh), (_, proposed, _) in pairwise(steps[1:]):
        expected = edits.merged(parent, [scored(ids, Toy().total(ids)) for ids in fresh], 8)
        assert expected
        assert proposed[: len(expected)] == expected


def test_an_exhausted_incumbent_makes_room_for_the_runner_up() -> None:
    settings = SETTINGS | {"top_k": 2, "candidates": 8}
    toy = Toy()
    for buffer in (1, 3):
        best: list[Ids] = []
        ranks = []
        for parent, _, fresh in walk(GcgConfig(**settings, buffer=buffer)):
            ranks.append(best.index(parent) if best else 0)
            best = sorted([*best, *fresh], key=toy.total)
        assert max(ranks) < buffer
        assert (max(ranks) > 0) == (buffer > 1)


@pytest.mark.parametrize("options", [{}, {"merge": 6}, {"first_edits": 2}, {"buffer": 4}], ids=str)
def test_every_option_finds_the_best_of_a_small_space(tmp_path: Path, options: dict) -> None:
    settings = {"length": 2, "steps": 400, "candidates": 24, "top_k": 8, "patience": 3}
    archive = search(GcgConfig(**settings | options), tmp_path, vocabulary=Letters(ALLOWED[:15]))
    assert archive.ranked()[0] == min(((a, b) for a in ALLOWED[:15] for b in ALLOWED[:15]), key=Toy().total)
