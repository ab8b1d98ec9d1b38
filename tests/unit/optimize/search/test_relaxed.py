"""PEZ: gradients at the projection, AdamW on the rows; and a hard prefix where a soft one was."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from optimize.config import RandomConfig, RelaxedConfig
from optimize.search.journal import LOG, Journal, untimed
from optimize.search.method import Archive, Ids, random_prefixes
from optimize.search.relaxed import Hardened, Relaxed, harden
from safethink.errors import SafeThinkError
from tests.support.toy_search import ALLOWED, NUM_IDS, Killed, Letters, Toy, Units, search

CHEAPEST = (20, 4, 13)
SETTINGS = {"length": 3, "steps": 120, "candidates": 1, "learning_rate": 0.3, "patience": 12}


class Dense(Units):
    """Random embeddings, more of them than they have numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._table = torch.randn(NUM_IDS, 12, generator=torch.Generator().manual_seed(6))

    def rows(self, ids: Sequence[int]) -> torch.Tensor:
        return self._table[list(ids)]

    def nearest(self, rows: torch.Tensor) -> Ids:
        return super().nearest(normalize(rows) @ normalize(self._table).T)


class Bowl(Toy):
    """What rows cost is how far they are from the embeddings of `CHEAPEST`."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[torch.Tensor] = []

    def total(self, ids: Ids) -> float:
        return self.soft_loss(Dense().rows(ids)).item()

    def soft_loss(self, rows: torch.Tensor) -> torch.Tensor:
        self.asked.append(rows.detach().clone())
        return (rows - Dense().rows(CHEAPEST)).square().sum()


class Uneven(Dense):
    """The same embeddings, with numbers of several sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.units = torch.tensor([1.0] * 5 + [64.0] * 7)

    def rows(self, ids: Sequence[int]) -> torch.Tensor:
        return super().rows(ids) * self.units

    def nearest(self, rows: torch.Tensor) -> Ids:
        return super().nearest(rows / self.units)


class UnevenBowl(Bowl):
    """The same costs, of rows as they are there."""

    def soft_loss(self, rows: torch.Tensor) -> torch.Tensor:
        return super().soft_loss(rows / Uneven().units)

    def total(self, ids: Ids) -> float:
        return super().soft_loss(Dense().rows(ids)).item()


class MortalBowl(Bowl):
    """A bowl at whose n-th loss the process is killed."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls

    def soft_loss(self, rows: torch.Tensor) -> torch.Tensor:
        self._calls -= 1
        if self._calls < 0:
            raise Killed
        return super().soft_loss(rows)


class Loop:
    """The driver's loop, without a journal."""

    def __init__(self, toy: Toy, embeddings: Units | None = None, **changes: object) -> None:
        self.toy, self.archive = toy, Archive()
        config = RelaxedConfig(**SETTINGS | changes)
        self.method = Relaxed(config, toy, Letters(), (5, 6, 7), self.archive, embeddings or Units())

    def step(self, index: int) -> list[Ids]:
        proposed = self.method.propose(torch.Generator().manual_seed(index))
        fresh = [ids for ids in proposed if ids not in self.archive]
        self.archive.add(fresh, [self.toy.total(ids) for ids in fresh], [True] * len(fresh))
        self.method.observe([])
        return proposed


def hardened(folder: Path, rows: torch.Tensor, toy: Toy | None = None, words: Letters | None = None) -> Hardened:
    folder.mkdir(exist_ok=True)
    config = RelaxedConfig(**SETTINGS)
    return harden(rows, toy or Bowl(), words or Letters(), Dense(), config, Journal(folder, "soft"), 0)


def soft_rows() -> torch.Tensor:
    return torch.randn(3, 12, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("seed", range(3))
def test_it_walks_down_to_the_cheapest(seed: int) -> None:
    loop, generator = Loop(Bowl(), Dense(), learning_rate=0.1), torch.Generator().manual_seed(seed)
    loop.method.load_state_dict(loop.method.state_dict() | {"restart": 1})
    for index in range(100):
        loop.step(1000 * seed + index)
    assert loop.archive.ranked()[0] == CHEAPEST
    drawn = random_prefixes(torch.tensor(ALLOWED), 3, len(loop.archive), generator)
    assert CHEAPEST not in drawn


@pytest.mark.slow
def test_it_beats_random_search_where_neighbours_work_together(tmp_path: Path) -> None:
    costs = []
    for seed in range(5):
        found = search(RelaxedConfig(**SETTINGS), tmp_path / f"relaxed{seed}", seed=seed)
        control = search(RandomConfig(length=3, steps=1, candidates=len(found)), tmp_path / f"random{seed}", seed=seed)
        costs.append((found.costs[found.ranked()[0]], control.costs[control.ranked()[0]]))
    assert sum(own for own, _ in costs) < sum(other for _, other in costs) - 5


def test_the_first_candidate_is_the_start_and_gradients_are_taken_at_projections() -> None:
    toy = Bowl()
    loop = Loop(toy, Dense())
    seen, asked = [], []
    for index in range(8):
        seen.append(loop.method.propose(torch.Generator().manual_seed(index)))
        asked, toy.asked = asked + toy.asked, []
    assert seen[0] == [(5, 6, 7)]
    assert all(len(proposed) == 1 for proposed in seen)
    for rows, (ids,) in zip(asked, seen, strict=False):
        assert torch.equal(rows, Dense().rows(ids))


def test_a_step_is_that_of_adamw() -> None:
    toy, embeddings = Bowl(), Dense()
    loop = Loop(toy, embeddings, weight_decay=0.5)
    passed = [loop.step(index)[0] for index in range(4)]
    rows = embeddings.rows((5, 6, 7)).requires_grad_()
    optimizer = torch.optim.AdamW([rows], lr=0.3 * rows.detach().square().mean().sqrt().item(), weight_decay=0.5)
    for ids in passed[:3]:
        rows.grad = 2 * (embeddings.rows(ids) - embeddings.rows(CHEAPEST))
        optimizer.step()
    torch.testing.assert_close(loop.method.state_dict()["rows"], rows.detach())


def test_parts_of_other_sizes_move_at_the_pace_of_their_own_size() -> None:
    even, uneven = Loop(Bowl(), Dense(), weight_decay=0.5), Loop(UnevenBowl(), Uneven(), weight_decay=0.5)
    for index in range(12):
        assert even.step(index) == uneven.step(index)
    assert torch.equal(uneven.method.state_dict()["rows"], even.method.state_dict()["rows"] * Uneven().units)


def test_rows_that_stand_still_are_left_for_others() -> None:
    loop = Loop(Toy(), patience=3, learning_rate=1e-6)
    starts = []
    for index in range(15):
        proposed = loop.step(index)
        starts.append((loop.method.state_dict()["restart"], *proposed))
    assert [restart for restart, _ in starts] == [0] * 5 + [1] * 5 + [2] * 5
    assert len({ids for _, ids in starts}) == 3


@pytest.mark.parametrize("steps", [0, 1, 5, 9])
def test_a_state_taken_half_way_leads_to_the_same_end(steps: int) -> None:
    whole = Loop(Toy(), patience=2)
    first = Loop(Toy(), patience=2)
    expected = [whole.step(index) for index in range(14)]
    assert [first.step(index) for index in range(steps)] == expected[:steps]
    second = Loop(Toy(), patience=2)
    second.archive.costs |= first.archive.costs
    second.method.load_state_dict(deepcopy(first.method.state_dict()))
    assert [second.step(index) for index in range(steps, 14)] == expected[steps:]
    for name, value in whole.method.state_dict().items():
        again = second.method.state_dict()[name]
        assert torch.equal(value, again) if isinstance(value, torch.Tensor) else value == again


def test_a_state_does_not_follow_the_rows() -> None:
    loop = Loop(Toy())
    loop.step(0)
    loop.step(1)
    state = loop.method.state_dict()
    before = deepcopy(state)
    loop.step(2)
    assert all(torch.equal(state[name], before[name]) for name in state if isinstance(state[name], torch.Tensor))


def test_a_hard_prefix_is_cheaper_than_the_nearest_tokens(tmp_path: Path) -> None:
    rows, toy = soft_rows(), Bowl()
    found = hardened(tmp_path, rows)
    assert found.nearest == Dense().nearest(rows) == next(iter(found.archive.costs))
    assert found.nearest_cost == pytest.approx(toy.total(found.nearest))
    assert found.ids == CHEAPEST
    assert found.cost == pytest.approx(0.0, abs=1e-6)
    assert found.cost < found.nearest_cost
    assert found.soft_cost == pytest.approx(toy.soft_loss(rows).item())
    assert found.gap == pytest.approx(-found.soft_cost)


def test_hardening_starts_from_the_rows_alone(tmp_path: Path) -> None:
    hardened(tmp_path, soft_rows())
    log = (tmp_path / LOG).read_text().splitlines()
    assert len(log) < SETTINGS["steps"]
    assert all(json.loads(line)["restart"] == 0 for line in log)


def test_killed_hardening_ends_the_same(tmp_path: Path) -> None:
    expected = hardened(tmp_path / "whole", soft_rows())
    with pytest.raises(Killed):
        hardened(tmp_path / "killed", soft_rows(), MortalBowl(9))
    assert hardened(tmp_path / "killed", soft_rows()) == expected
    assert untimed(tmp_path / "killed" / LOG) == untimed(tmp_path / "whole" / LOG)


def test_tokens_that_cannot_be_written_down_are_no_hard_prefix(tmp_path: Path) -> None:
    nearest = Dense().nearest(soft_rows())
    found = hardened(tmp_path / "some", soft_rows(), words=Letters(dead=lambda ids: ids == nearest))
    assert found.nearest_cost == math.inf
    assert found.ids == CHEAPEST
    with pytest.raises(SafeThinkError, match="the same ids"):
        hardened(tmp_path / "none", soft_rows(), words=Letters(dead=lambda ids: True))
