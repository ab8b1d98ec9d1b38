"""Beams: the reasoner's own samples, the cheapest of them kept, start after start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from optimize.config import BeamConfig, RandomConfig
from optimize.search.beam import Beam
from optimize.search.journal import LOG, untimed
from optimize.search.method import Archive, Ids
from tests.support.toy_search import ALLOWED, Killed, Letters, Mortal, Talker, Toy, search

SETTINGS = {"length": 3, "steps": 30, "candidates": 60, "beams": 5, "branches": 12}


class Loop:
    """The driver's loop, without a journal."""

    def __init__(self, start: Ids = (), proposer: Talker | None = None, **changes: object) -> None:
        self.toy, self.archive = Toy(), Archive()
        config = BeamConfig(**SETTINGS | changes)
        self.method = Beam(config, Letters(), start, self.archive, proposer or Talker())

    def step(self, index: int) -> list[Ids]:
        proposed = self.method.propose(torch.Generator().manual_seed(index))
        some = [ids for ids in proposed if ids not in self.archive][:60]
        totals = [self.toy.total(ids) for ids in some]
        self.archive.add(some, totals, [True] * len(some))
        self.method.observe([])
        return proposed

    @property
    def beams(self) -> list[Ids]:
        return [tuple(ids) for ids in self.method.state_dict()["beams"]]


class Mute(Talker):
    """Says only two tokens."""

    def _after(self, ids: Ids) -> torch.Tensor:
        log_probs = torch.full((len(ALLOWED),), -1e9)
        log_probs[:2] = 0.0
        return log_probs.log_softmax(0)


def test_it_finds_cheaper_prefixes_than_random_search_and_proposes_what_reads_well(tmp_path: Path) -> None:
    found = search(BeamConfig(**SETTINGS), tmp_path / "beam")
    control = search(RandomConfig(length=3, steps=30, candidates=60), tmp_path / "random")
    best, others = found.ranked(3), control.ranked(3)
    assert len(best) < len(others)
    assert found.costs[best[0]] < control.costs[others[0]]
    assert sum(found.costs[ids] for ids in best[:20]) < sum(control.costs[ids] for ids in others[:20])
    talker = Talker()
    said = [talker.nll(ids) for index in range(30) for ids in Loop(beams=1, branches=4).step(index)]
    drawn = [talker.nll((token,)) for token in ALLOWED]
    assert sum(said) / len(said) < sum(drawn) / len(drawn)


def test_beams_grow_by_one_token_and_the_cheapest_stay() -> None:
    loop = Loop()
    for length in (1, 2, 3):
        before = loop.beams
        proposed = loop.step(length)
        assert {len(ids) for ids in proposed} == {length}
        assert {ids[:-1] for ids in proposed} == set(before)
        if length < 3:
            ranked = sorted((ids for ids in proposed if ids in loop.archive), key=loop.archive.costs.__getitem__)
            assert loop.beams == ranked[:5]
    assert loop.beams == [()]


def test_a_branch_is_sampled_once_and_first_branches_come_first() -> None:
    loop = Loop()
    loop.step(0)
    before = loop.beams
    proposed = loop.step(1)
    assert len(proposed) == len(set(proposed)) == 5 * 12
    assert [ids[:-1] for ids in proposed[:5]] == before


def test_as_many_branches_are_drawn_however_few_the_beams() -> None:
    assert len(Loop(beams=2, branches=6).step(0)) == 12
    assert len(Loop(beams=20, branches=20).step(0)) == len(ALLOWED)


def test_samples_are_what_the_reasoner_says() -> None:
    likeliest = Loop(beams=1, branches=2, proposer=Mute())
    assert {ids for index in range(3) for ids in likeliest.step(index) if len(ids) == 1} == {(3,), (4,)}
    firsts = [Loop(beams=1, branches=1).step(seed)[0][0] for seed in range(400)]
    share = sum(token == ALLOWED[-1] for token in firsts) / len(firsts)
    assert share == pytest.approx(Talker().next_tokens([()])[0][0, -1].exp().item(), abs=0.04)


def test_a_start_is_grown_and_a_whole_one_tried_as_it_is() -> None:
    assert {ids[:2] for ids in Loop(start=(5, 6)).step(0)} == {(5, 6)}
    whole = Loop(start=(5, 6, 7))
    assert whole.step(0) == [(5, 6, 7)]
    assert {len(ids) for ids in whole.step(1)} == {1}


def test_what_an_earlier_start_tried_is_taken_up_again() -> None:
    loop = Loop(beams=2, branches=40)
    for index in range(3):
        loop.step(index)
    assert loop.beams == [()]
    loop.step(3)
    singles = sorted((ids for ids in loop.archive.costs if len(ids) == 1), key=loop.archive.costs.__getitem__)
    assert loop.beams == singles[:2]


def test_what_a_race_dropped_is_no_beam() -> None:
    loop = Loop()
    proposed = loop.method.propose(torch.Generator().manual_seed(0))
    loop.archive.add(proposed, [float(ids[0]) for ids in proposed], [ids[0] % 2 == 0 for ids in proposed])
    loop.method.observe([])
    assert loop.beams == sorted(ids for ids in proposed if ids[0] % 2 == 0)[:5]


def test_a_dead_end_begins_anew() -> None:
    loop = Loop()
    loop.step(0)
    loop.archive.bury(loop.method.propose(torch.Generator().manual_seed(1)))
    loop.method.observe([])
    assert loop.beams == [()]


def test_what_the_reasoner_is_asked_counts_against_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Costly(Talker):
        """Forwards seven tokens for every prefix."""

        def next_tokens(self, prefixes: Sequence[Ids], everywhere: bool = False) -> list[torch.Tensor]:
            self.tokens += 7 * len(prefixes)
            return super().next_tokens(prefixes, everywhere)

    monkeypatch.setattr("tests.support.toy_search.Talker", Costly)
    toy = Toy()
    limited = BeamConfig(**SETTINGS | {"steps": 1000, "budget_tokens": 2000})
    search(limited, tmp_path / "whole", toy)
    log = untimed(tmp_path / "whole" / LOG)
    spent = [line["tokens"] for line in log]
    assert spent[-2] < 2000 <= spent[-1]
    assert spent[-1] - toy.tokens == 7 * (1 + 5 + 5) * (len(log) // 3) + 7 * (0, 1, 6)[len(log) % 3]
    with pytest.raises(Killed):
        search(limited, tmp_path / "killed", Mortal(3))
    search(limited, tmp_path / "killed")
    assert untimed(tmp_path / "killed" / LOG) == log
