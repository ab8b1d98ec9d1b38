"""The search: never worse, never twice, exhaustive where that is cheap, and the same after being killed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch

from optimize.config import GcgConfig
from optimize.objectives import (
    BenignLikelihood,
    CachedScorer,
    Cost,
    Objective,
    Readability,
    SafeContinuation,
    Weighted,
)
from optimize.scoring import Example, Scorer
from optimize.search import driver
from optimize.search.gcg import Gcg
from optimize.search.journal import LOG, Journal, untimed
from optimize.search.method import Archive, Scored
from safethink.errors import ConfigError, RecordError
from tests.support import tiny_reasoner
from tests.support.toy_search import Killed, Letters

ALLOWED = tuple(range(3, 40))
TARGETS = ((20, 21), (30,))


class Counted:
    """An objective that notes what it was asked."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.scored: list[tuple[int, ...]] = []

    def __getattr__(self, name: str):
        """All else is the objective's own."""
        return getattr(self.objective, name)

    def cost(self, candidates: Sequence[tuple[int, ...]], incumbent: tuple[int, ...] | None = None) -> Cost:
        self.scored += candidates
        return self.objective.cost(candidates, incumbent)


class Mortal(Counted):
    """An objective during whose n-th call the process is killed."""

    def __init__(self, objective: Objective, calls: int) -> None:
        super().__init__(objective)
        self._calls = calls

    def cost(self, candidates: Sequence[tuple[int, ...]], incumbent: tuple[int, ...] | None = None) -> Cost:
        self._calls -= 1
        if self._calls < 0:
            raise Killed
        return super().cost(candidates, incumbent)


@pytest.fixture(scope="module")
def objective() -> Objective:
    model = tiny_reasoner.model(vocab_size=48, hidden_size=16, layers=1)
    generator = torch.Generator().manual_seed(3)

    def examples(count: int) -> list[Example]:
        rows = torch.randint(48, (count, 12), generator=generator).tolist()
        return [Example(tuple(row[:8]), tuple(row[8:])) for row in rows]

    unsafe, harmless = CachedScorer(Scorer(model, examples(5))), CachedScorer(Scorer(model, examples(3)))
    terms = SafeContinuation(unsafe), Readability(unsafe), BenignLikelihood(harmless)
    return Objective(model, [Weighted(*each) for each in zip(terms, (1.0, 0.05, 0.5), strict=True)])


def config(**changes) -> GcgConfig:
    return GcgConfig(**{"length": 3, "steps": 14, "candidates": 20, "top_k": 8, "patience": 2} | changes)


def search(objective, folder: Path, settings: GcgConfig, vocabulary=None, init=(5, 6, 7), fingerprint="f", seed=0):
    words, journal = vocabulary or Letters(ALLOWED), Journal(folder, fingerprint)
    method = Gcg(settings, objective, words, init, journal.archive, TARGETS)
    return driver.search(objective, words, method, settings, journal, seed)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_the_coordinate_gradient_ranks_substitutes_like_their_true_cost(objective):
    prefix, allowed = torch.tensor([5, 6, 7]), torch.tensor(ALLOWED)
    gradient = objective.coordinate_gradient(prefix, allowed)[2]
    true = objective.cost([(5, 6, token) for token in ALLOWED]).total
    ranks = torch.stack([gradient.argsort().argsort(), true.argsort().argsort()]).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.3


def test_the_incumbent_never_gets_worse_and_the_search_improves(objective, tmp_path):
    archive = search(objective, tmp_path, config())
    log = lines(tmp_path)
    assert [line["step"] for line in log] == list(range(14))
    restarts = range(log[-1]["restart"] + 1)
    starts = [[line["cost"]["total"] for line in log if line["restart"] == restart] for restart in restarts]
    assert len(starts) > 1, "a start without improvement is left"
    for totals in starts:
        assert totals == sorted(totals, reverse=True)
    assert starts[0][-1] < starts[0][0]
    assert archive.costs[archive.ranked()[0]] == pytest.approx(min(line["cost"]["total"] for line in log))


def test_nothing_is_scored_twice_and_steps_are_full(objective, tmp_path):
    counted = Counted(objective)
    search(counted, tmp_path, config())
    assert len(counted.scored) == len(set(counted.scored)) == sum(line["scored"] for line in lines(tmp_path))
    assert {line["scored"] for line in lines(tmp_path)} == {1, 20}
    assert all(set(ids) <= set(ALLOWED) for ids in counted.scored)


@pytest.mark.parametrize("length", [1, 2])
def test_a_small_space_is_searched_exhaustively(objective, tmp_path, length):
    vocabulary = Letters(ALLOWED[:9])
    archive = search(objective, tmp_path, config(length=length, steps=60, candidates=9), vocabulary, init=())
    everything = list(product(vocabulary.allowed, repeat=length))
    assert archive.ranked()[0] == everything[objective.cost(everything).total.argmin()]


def test_candidates_that_do_not_survive_are_dropped(objective, tmp_path):
    counted = Counted(objective)
    search(counted, tmp_path, config(), Letters(ALLOWED, dead=lambda ids: sum(ids) % 3 == 0))
    assert counted.scored
    assert all(sum(ids) % 3 for ids in counted.scored)
    assert sum(line["dropped"] for line in lines(tmp_path)) > 0


def test_the_search_goes_on_when_no_candidate_survives(objective, tmp_path):
    init = (5, 6, 7)
    patient = config(pair_share=0.0, top_k=4, steps=13, patience=13)

    class Fickle(Letters):
        """Nothing but the start survives during the first steps."""

        calls = 0

        def survive(self, candidates):
            self.calls += 1
            return [ids == init or self.calls > 6 for ids in candidates]

    search(objective, tmp_path, patient, Fickle(ALLOWED), init)
    log = lines(tmp_path)
    assert [line["scored"] > 0 for line in log[1:]] == [False] * 4 + [True] * 8
    assert log[-1]["cost"]["total"] < log[0]["cost"]["total"]


def test_a_start_is_filled_up_to_the_length(objective, tmp_path):
    search(objective, tmp_path, config(steps=1), init=(5, 6))
    start = lines(tmp_path)[0]["prefix_ids"]
    assert len(start) == 3
    assert start[:2] == [5, 6]


@pytest.mark.slow
@pytest.mark.parametrize("calls", [0, 1, 4, 9])
@pytest.mark.parametrize(
    "options", [{}, {"candidates": 8, "min_candidates": 2, "escape": True, "target_share": 0.3, "patience": 6}], ids=str
)
def test_a_killed_search_continues_to_the_same_result(objective, tmp_path, calls, options):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    settings = config(**options)
    expected = search(objective, whole, settings)
    with pytest.raises(Killed):
        search(Mortal(objective, calls), killed, settings)
    # Killed between the log line and the state, in the middle of the next line.
    with (killed / LOG).open("a") as log:
        log.write('{"restart": 7}\n{"rest')
    archive = search(objective, killed, settings)
    assert untimed(killed / LOG) == untimed(whole / LOG)
    assert archive == expected


def test_a_journal_of_another_search_is_refused(objective, tmp_path):
    search(objective, tmp_path, config(steps=1), fingerprint="one")
    with pytest.raises(RecordError, match="another search"):
        search(objective, tmp_path, config(steps=1), fingerprint="two")


def test_a_journal_with_lost_lines_is_refused(objective, tmp_path):
    search(objective, tmp_path, config(steps=1))
    (tmp_path / LOG).write_text("")
    with pytest.raises(RecordError, match="0 of 1 lines"):
        search(objective, tmp_path, config(steps=1))


def test_the_width_follows_how_many_candidates_beat_the_incumbent(objective, tmp_path):
    settings = config(candidates=16, min_candidates=2, top_k=37, steps=16, patience=16)
    search(objective, tmp_path, settings)
    log = lines(tmp_path)[1:]
    widths, hits = [line["scored"] for line in log], [line["hits"] for line in log]
    assert widths[0] == 2
    assert {2, 16} <= set(widths), "early steps are narrow, late ones wide"
    for width, found, following in zip(widths, hits, widths[1:], strict=False):
        expected = max(2, width // 2) if found >= 3 else width if found else min(16, 2 * width)
        assert following == expected


def test_hits_are_the_candidates_that_beat_the_best_of_the_start(objective, tmp_path):
    archive = search(objective, tmp_path, config(steps=8, patience=8))
    log, costs = lines(tmp_path), list(archive.costs.values())
    seen = 0
    for before, line in zip([None, *log], log, strict=False):
        scored = costs[seen : seen + line["scored"]]
        if before is None:
            assert "hits" not in line
        else:
            assert line["hits"] == sum(cost < before["cost"]["total"] for cost in scored)
        seen += line["scored"]


def test_at_a_plateau_an_escape_goes_on_from_the_best_of_what_is_worse(objective, tmp_path):
    settings = config(candidates=8, steps=30, patience=30)
    folders = [tmp_path / "stays", tmp_path / "escapes"]
    for folder, changed_settings in zip(folders, (settings, settings.replace(escape=True)), strict=True):
        folder.mkdir()
        search(objective, folder, changed_settings)
    stays, escapes = map(lines, folders)
    first = next(index for index, line in enumerate(stays) if line.get("hits") == 0)
    assert stays[: first + 1] == [line | timed(old) for line, old in zip(escapes[: first + 1], stays, strict=False)]

    def changed(line: dict, parent: list[int]) -> int:
        return sum(a != b for a, b in zip(line["best_ids"], parent, strict=True))

    assert changed(stays[first + 1], stays[first]["prefix_ids"]) <= 2
    assert changed(escapes[first + 1], escapes[first]["best_ids"]) <= 2
    totals = [line["cost"]["total"] for line in escapes]
    assert totals == sorted(totals, reverse=True), "the best so far is kept"


def timed(line: dict) -> dict:
    return {name: line[name] for name in ("seconds", "cpu_seconds")}


def test_patience_counts_from_the_best_of_a_start_whatever_an_escape_goes_on_from(objective, tmp_path):
    search(objective, tmp_path, config(candidates=6, steps=40, patience=4, escape=True))
    log = lines(tmp_path)
    for restart in range(log[-1]["restart"]):
        totals = [line["cost"]["total"] for line in log if line["restart"] == restart]
        assert len(totals) - totals.index(min(totals)) == 6, "the step of the best, four more, and the one too many"


def test_an_escape_is_not_undone_by_scoring_the_best_of_the_start_once_more(objective):
    """As a race does, or an objective on policy, whose costs change."""
    words = Letters(ALLOWED)
    method = Gcg(config(candidates=2, patience=3, escape=True), objective, words, (5, 6, 7), Archive())

    def step(*costs: tuple[tuple[int, ...], float]) -> tuple[int, ...]:
        method.observe([Scored(ids, cost, {"total": cost}) for ids, cost in costs])
        return tuple(method.state_dict()["incumbents"][0][0])

    assert step(((5, 6, 7), 1.0)) == (5, 6, 7)
    assert step(((5, 6, 8), 2.0), ((5, 6, 9), 3.0), ((5, 6, 7), 1.0)) == (5, 6, 8)
    again = Gcg(config(candidates=2, patience=3, escape=True), objective, words, (5, 6, 7), Archive())
    again.load_state_dict(json.loads(json.dumps(method.state_dict() | {"momentum": None})))
    method = again
    assert step(((5, 7, 8), 2.5), ((5, 6, 7), 0.9999999)) == (5, 7, 8), "no way back by a rounding error"
    assert method.state_dict()["stale"] == 2
    assert step(((5, 7, 9), 1.5), ((5, 6, 7), 1.2)) == (5, 7, 9)
    assert method.state_dict()["stale"] == 3, "the best of the start costs 1.2 by now"
    assert step(((5, 9, 9), 1.1), ((5, 6, 7), 1.2)) == (5, 9, 9)
    assert method.state_dict()["stale"] == 0


def test_words_of_targets_that_no_prefix_may_hold_are_refused_by_name(objective):
    with pytest.raises(ConfigError, match=r"search\.target_share: no token of the targets"):
        Gcg(config(target_share=0.3), objective, Letters(ALLOWED), (), Archive(), [(99,)])
