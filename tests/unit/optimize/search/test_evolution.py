"""Evolution: finds what random search does not, keeps to legal lengths, and reads each survivor once."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from optimize.config import EvolutionConfig
from optimize.search.evolution import Evolution
from optimize.search.method import Archive, Ids, Scored, random_prefixes
from tests.support.toy_search import ALLOWED, Letters, Talker, Toy

SETTINGS = {"length": 4, "min_length": 2, "steps": 25, "candidates": 20, "population": 6, "top_k": 8, "patience": 8}


class Reading(Toy):
    """A toy that notes of which prefixes gradients were asked."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[Ids] = []

    def coordinate_gradient(self, prefix: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        self.read.append(tuple(prefix.tolist()))
        return super().coordinate_gradient(prefix, allowed)


class Loop:
    """The driver's loop, without a journal."""

    def __init__(self, toy: Toy, **changes: object) -> None:
        self.toy, self.archive = toy, Archive()
        self.method = Evolution(EvolutionConfig(**SETTINGS | changes), toy, Letters(), (), self.archive, Talker())

    def step(self, index: int) -> list[Ids]:
        proposed = self.method.propose(torch.Generator().manual_seed(index))
        some = proposed[:20]
        cost = self.toy.cost(some)
        self.archive.add(some, cost.total.tolist(), [True] * len(some))
        self.method.observe([Scored(ids, cost.total[i].item(), cost.candidate(i)) for i, ids in enumerate(some)])
        return proposed


def cheapest(length: int) -> float:
    """By dynamic programming: the cost of a prefix is a sum over neighbours."""
    toy = Toy()
    best = toy.singles[0]
    for place in range(1, length):
        best = (best[:, None] + toy.pairs).min(0).values + toy.singles[place]
    return best.min().item()


@pytest.mark.slow
def test_it_comes_near_the_cheapest_and_as_many_random_prefixes_do_not() -> None:
    optimum = min(cheapest(length) for length in (2, 3, 4))
    regrets, controls = [], []
    for seed in range(6):
        loop, toy, generator = Loop(Toy(), population=16, patience=20), Toy(), torch.Generator().manual_seed(seed)
        for index in range(40):
            loop.step(1000 * seed + index)
        regrets.append(min(loop.archive.costs.values()) - optimum)
        drawn = random_prefixes(torch.tensor(ALLOWED), 4, len(loop.archive), generator)
        controls.append(min(map(toy.total, drawn)) - optimum)
    assert min(regrets) > -1e-4
    assert sum(regrets) / 6 < 0.3
    assert sum(controls) / 6 > 1.5


def test_lengths_move_and_stay_legal() -> None:
    loop = Loop(Toy(), population=16)
    proposed = {len(ids) for index in range(20) for ids in loop.step(index)}
    assert proposed == {2, 3, 4}
    loop = Loop(Toy(), min_length=4)
    assert {len(ids) for index in range(6) for ids in loop.step(index)} == {4}


def test_only_new_survivors_are_read_and_each_of_them_once() -> None:
    toy = Reading()
    loop = Loop(toy, patience=100)
    for index in range(12):
        loop.step(index)
    assert len(toy.read) == len(set(toy.read))
    assert 6 <= len(toy.read) < 12 * 6 / 2


def test_children_are_one_edit_from_a_parent() -> None:
    loop = Loop(Toy(), patience=100)
    loop.step(0)
    parents = {tuple(ids) for ids, *_ in loop.method.state_dict()["population"]}

    def near(child: Ids, parent: Ids) -> bool:
        shorter, longer = sorted((child, parent), key=len)
        if len(shorter) == len(longer):
            return sum(a != b for a, b in zip(child, parent, strict=True)) <= 1
        return any(longer[:gap] + longer[gap + 1 :] == shorter for gap in range(len(longer)))

    children = loop.step(1)
    assert all(any(near(child, parent) for parent in parents) for child in children)
    assert all(set(child) <= set(ALLOWED) for child in children)


def test_the_population_holds_readable_prefixes_beside_cheap_ones() -> None:
    loop = Loop(Toy(), patience=100)
    for index in range(15):
        loop.step(index)
    population = loop.method.state_dict()["population"]
    assert len(population) == 6
    costs, nlls = [each[1] for each in population], [each[3] for each in population]
    assert min(costs) == min(loop.archive.costs.values())
    assert max(nlls) - min(nlls) > 1.0
    assert population[costs.index(min(costs))][3] > min(nlls)


def test_a_state_taken_half_way_leads_to_the_same_end() -> None:
    whole, first = Loop(Toy()), Loop(Toy())
    for index in range(10):
        whole.step(index)
    for index in range(4):
        first.step(index)
    second = Loop(Toy())
    second.archive.add(list(first.archive.costs), list(first.archive.costs.values()), [True] * len(first.archive))
    second.method.load_state_dict(first.method.state_dict())
    for index in range(4, 10):
        second.step(index)
    assert second.archive == whole.archive
    assert second.method.state_dict()["population"] == whole.method.state_dict()["population"]


def test_what_the_reasoner_would_say_is_proposed() -> None:
    """The talker likes a token the best after the one before it: more neighbours are in that order than by chance."""
    loop = Loop(Toy(), patience=100, min_length=4)
    loop.step(0)
    parents = [tuple(ids) for ids, *_ in loop.method.state_dict()["population"]]
    children = loop.step(1)
    known = {pair for ids in parents for pair in pairwise(ids)}
    fresh = [pair for ids in children for pair in set(pairwise(ids)) - known]
    assert sum(b == a + 1 for a, b in fresh) > 3 * len(fresh) / len(ALLOWED)


def test_a_shortest_length_beyond_the_longest_is_refused() -> None:
    with pytest.raises(ValidationError, match="min_length 5 is more than length 4"):
        EvolutionConfig(length=4, min_length=5)
