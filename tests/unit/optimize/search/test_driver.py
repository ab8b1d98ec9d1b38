"""Every method on the one driver: killed and resumed, within its budget, nothing twice, honest when nothing works."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from optimize.config import (
    BeamConfig,
    EvolutionConfig,
    GcgConfig,
    MethodConfig,
    PhrasesConfig,
    RandomConfig,
    ReflectConfig,
    RelaxedConfig,
    UnigramConfig,
)
from optimize.objectives import Cost
from optimize.search import driver
from optimize.search.journal import LOG, STATE, Journal, SearchState, untimed
from optimize.search.method import Archive, Ids, Scored, start_ids
from safethink.errors import ConfigError, RecordError, SafeThinkError
from tests.support import toy_search
from tests.support.toy_search import TOKENS_PER_CANDIDATE, Killed, Letters, Mortal, Toy, search

SHARED = {"length": 3, "steps": 12, "candidates": 10}
SLOT = tuple("defghijkl")
GRADIENT = SHARED | {"top_k": 6, "patience": 2}
CONFIGS: dict[str, MethodConfig] = {
    "gcg": GcgConfig(**GRADIENT),
    "gcg-with-options": GcgConfig(**GRADIENT, merge=4, first_edits=3, buffer=3),
    "evolution": EvolutionConfig(**GRADIENT, population=3, min_length=2),
    "beam": BeamConfig(**SHARED, beams=3, branches=3),
    "relaxed": RelaxedConfig(**SHARED, patience=2, learning_rate=2.0),
    "random": RandomConfig(**SHARED),
    "unigram": UnigramConfig(**SHARED),
    "reflect": ReflectConfig(**SHARED, lists=3, traces=2),
    "phrases": PhrasesConfig(length=3, steps=12, slots=(SLOT, SLOT, SLOT), exhaustive_below=1),
}
METHODS = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def third_dies(ids: Ids) -> bool:
    return sum(ids) % 3 == 0


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


@pytest.mark.slow
@METHODS
def test_a_search_killed_anywhere_ends_the_same(config: MethodConfig, tmp_path: Path) -> None:
    expected = search(config, tmp_path / "whole", vocabulary=Letters(dead=third_dies), start=(5, 6))
    moments, kills = random.Random(0), 0
    for run in range(6):
        folder = tmp_path / str(run)
        for _ in range(3):
            try:
                search(config, folder, Mortal(moments.randrange(5)), Letters(dead=third_dies), start=(5, 6))
            except Killed:
                kills += 1
            with (folder / LOG).open("a") as log:
                log.write(moments.choice(['{"step": 7}\n{"st', '{"st', ""]))
        archive = search(config, folder, vocabulary=Letters(dead=third_dies), start=(5, 6))
        assert untimed(folder / LOG) == untimed(tmp_path / "whole" / LOG)
        assert archive == expected
    assert kills >= 6


@METHODS
def test_killed_between_the_log_and_the_state(config: MethodConfig, tmp_path: Path, monkeypatch) -> None:
    expected = search(config, tmp_path / "whole")

    def die(*paths: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("optimize.search.journal.os.replace", die)
        with pytest.raises(Killed):
            search(config, tmp_path / "killed")
    assert len(lines(tmp_path / "killed")) == 1
    assert search(config, tmp_path / "killed") == expected
    assert untimed(tmp_path / "killed" / LOG) == untimed(tmp_path / "whole" / LOG)


@METHODS
def test_nothing_is_scored_or_read_again_twice(config: MethodConfig, tmp_path: Path) -> None:
    toy, words = Toy(), Letters(dead=third_dies)
    archive = search(config, tmp_path, toy, words)
    assert len(toy.scored) == len(set(toy.scored)) == sum(line["scored"] for line in lines(tmp_path))
    assert set(toy.scored) == set(archive.ranked())
    assert not any(third_dies(ids) for ids in toy.scored)
    assert sum(line["dropped"] for line in lines(tmp_path)) == len(archive) - len(archive.ranked()) > 0


@METHODS
def test_every_line_says_what_the_step_did(config: MethodConfig, tmp_path: Path) -> None:
    toy = Toy()
    archive = search(config, tmp_path, toy)
    log = lines(tmp_path)
    assert [line["step"] for line in log] == list(range(len(log)))
    assert log[-1]["tokens"] == toy.tokens
    for line in log:
        assert line["looked_at"] >= line["dropped"] + line["scored"]
        assert line["text"] == Letters().text(line["prefix_ids"])
        assert line["prefix_ids"] == [] or line["cost"]["total"] == archive.costs[tuple(line["prefix_ids"])]
        assert line["fingerprint"] == "toy"


@METHODS
def test_what_is_found_has_the_length_that_was_asked_for(config: MethodConfig, tmp_path: Path) -> None:
    archive = search(config, tmp_path, start=(5, 6))
    found = archive.ranked(config.shortest)
    assert {len(ids) for ids in found} <= set(range(config.shortest, 4))
    assert [line["prefix_ids"] for line in lines(tmp_path)][-1] in [list(ids) for ids in found]


@METHODS
def test_another_seed_looks_elsewhere(config: MethodConfig, tmp_path: Path) -> None:
    one, two = (search(config, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert list(one.costs) != list(two.costs)


@pytest.mark.slow
@METHODS
def test_tokens_are_a_budget_and_a_resumed_search_has_no_more_of_them(config: MethodConfig, tmp_path: Path) -> None:
    budget = 45 * TOKENS_PER_CANDIDATE
    limited = config.replace(budget_tokens=budget, steps=1000)
    toy = Toy()
    search(limited, tmp_path / "whole", toy)
    most_of_a_step = (config.candidates + 2 * config.length) * TOKENS_PER_CANDIDATE
    assert budget <= toy.tokens < budget + most_of_a_step
    with pytest.raises(Killed):
        search(limited, tmp_path / "killed", Mortal(3))
    search(limited, tmp_path / "killed")
    assert untimed(tmp_path / "killed" / LOG) == untimed(tmp_path / "whole" / LOG)


@METHODS
def test_nothing_survives(config: MethodConfig, tmp_path: Path) -> None:
    with pytest.raises(SafeThinkError, match="ended before a prefix of 3 tokens was the same ids"):
        search(config, tmp_path, vocabulary=Letters(dead=lambda ids: True))


def test_where_nothing_survives_the_reason_is_that_of_the_first(tmp_path: Path) -> None:
    class Explained(Letters):
        def complaint(self, ids):
            return f"it is read as {len(ids)} blanks (the tokenizer's rule: Blanks)"

    with pytest.raises(
        SafeThinkError, match=r"of the first, '\w+', it is read as 2 blanks .the tokenizer's rule: Blanks"
    ):
        search(RandomConfig(length=2, steps=1), tmp_path, vocabulary=Explained(dead=lambda ids: True))


def test_a_search_stops_early_where_nothing_better_is_found(tmp_path: Path) -> None:
    config = RandomConfig(length=3, steps=500, candidates=2, stop_after_steps=4)
    search(config, tmp_path)
    bests = [line["cost"]["total"] for line in lines(tmp_path)]
    assert 4 < len(bests) < 500
    assert bests[-5:] == [bests[-1]] * 5
    assert bests[-6] > bests[-5]


def test_a_small_space_ends_the_search(tmp_path: Path) -> None:
    archive = search(RandomConfig(length=1, steps=500, candidates=10), tmp_path)
    assert len(lines(tmp_path)) < 10
    assert len(archive) > 0.9 * len(toy_search.ALLOWED)


def test_only_as_many_are_read_again_as_are_needed(tmp_path: Path) -> None:
    words = Letters()
    search(RandomConfig(length=3, steps=1, candidates=100), tmp_path, vocabulary=words)
    assert len(words.looked_at) == driver.BLOCK


def test_a_cost_that_is_no_number_names_the_prefix_and_keeps_the_steps_before(tmp_path: Path) -> None:
    class Broken(Toy):
        def total(self, ids: Ids) -> float:
            return super().total(ids) if len(self.scored) <= 20 else float("nan")

    with pytest.raises(SafeThinkError, match=r"the prefix '...' costs .*nan"):
        search(CONFIGS["random"], tmp_path, Broken())
    assert len(lines(tmp_path)) == 2


def test_a_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    search(CONFIGS["random"], tmp_path)
    with pytest.raises(RecordError, match="another search"):
        Journal(tmp_path, "other").resume()


def test_a_journal_of_another_search_names_the_setting_that_differs(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "one", {"seed": 0, "start": (5, 6)})
    journal.resume()
    journal.commit(SearchState(step=1), {"step": 1})
    assert Journal(tmp_path, "one", {"seed": 0, "start": (5, 6)}).resume().step == 1
    with pytest.raises(RecordError, match=r"another search: start\.1 is 6 there and 7 here; give a fresh --out"):
        Journal(tmp_path, "two", {"seed": 0, "start": (5, 7)}).resume()


def test_a_journal_older_than_its_settings_is_resumed(tmp_path: Path) -> None:
    search(CONFIGS["random"], tmp_path)
    with safe_open(tmp_path / STATE, "pt") as file:
        head = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    del head["settings"]
    save_file(tensors, tmp_path / STATE, {"state": json.dumps(head)})
    assert Journal(tmp_path, "toy", {"seed": 0}).resume().step == head["step"]
    with pytest.raises(RecordError, match="by which setting was not written down"):
        Journal(tmp_path, "other", {"seed": 0}).resume()


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    search(CONFIGS["random"], tmp_path)
    state = tmp_path / STATE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(RecordError, match=r"search\.safetensors is damaged"):
        Journal(tmp_path, "the same").resume()
    save_file({"ids": torch.zeros(1)}, state)
    with pytest.raises(RecordError, match=r"search\.safetensors is damaged"):
        Journal(tmp_path, "the same").resume()


def test_the_journal_gives_back_what_it_took(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "mine")
    journal.archive.bury([(1, 2, 3)])
    journal.archive.add([(4,), (5, 6)], [0.5, 0.25], [True, False])
    square = torch.arange(4.0).view(2, 2)
    state = SearchState(step=1, tokens=7, restart=2, incumbent=(4,), cost={"total": 0.5})
    state.method = {"matrix": square.T, "same": square, "ids": [[1], [2, 3]], "nothing": None}
    journal.commit(state, {"step": 0})
    again = Journal(tmp_path, "mine")
    read = again.resume()
    assert again.archive == journal.archive
    tensors = {name: read.method.pop(name) for name in ("matrix", "same")}
    assert torch.equal(tensors["matrix"], square.T)
    assert torch.equal(tensors["same"], square)
    assert read.method == {"ids": [[1], [2, 3]], "nothing": None}
    assert (read.step, read.tokens, read.restart, read.incumbent, read.cost) == (1, 7, 2, (4,), {"total": 0.5})
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOG, STATE]


def test_estimates_rank_behind_exact_costs_and_short_ones_are_left_out() -> None:
    archive = Archive()
    archive.add([(1, 1), (2, 2), (3, 3), (4,)], [0.5, 0.1, 0.4, 0.2], [True, False, True, True])
    archive.bury([(5, 5)])
    assert archive.ranked() == [(4,), (3, 3), (1, 1), (2, 2)]
    assert archive.ranked(2) == [(3, 3), (1, 1), (2, 2)]


def test_what_a_race_dropped_is_not_shown_to_the_method(tmp_path: Path, monkeypatch) -> None:
    shown: list[Ids] = []

    class Raced(Toy):
        def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
            return replace(super().cost(candidates, incumbent), exact=torch.arange(len(candidates)) % 2 == 0)

    def note(self, scored: list[Scored]) -> None:
        shown.extend(each.ids for each in scored)

    monkeypatch.setattr("optimize.search.random.Random.observe", note)
    archive = search(CONFIGS["random"], tmp_path, Raced())
    assert archive.estimated == set(archive.costs) - set(shown)
    assert len(shown) == len(archive.estimated) == 60
    assert all(tuple(line["best_ids"]) in shown for line in lines(tmp_path))


class Drifting(Mortal):
    """What everything costs rises whenever the incumbent changes, which is scored once more beside the candidates."""

    def __init__(self, calls: int = 1000) -> None:
        super().__init__(calls)
        self.at: Ids = ()
        self.moves = 0

    def move_to(self, prefix: Ids) -> None:
        self.moves += prefix != self.at
        self.at = prefix

    def total(self, ids: Ids) -> float:
        return super().total(ids) + 0.01 * self.moves

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        again = {"total": self.total(self.at)} if self.at else None
        return replace(super().cost(candidates, incumbent), incumbent=again)

    def state_dict(self) -> dict:
        return {"at": self.at, "moves": self.moves}

    def load_state_dict(self, state: dict) -> None:
        self.at, self.moves = tuple(state["at"]), state["moves"]


@pytest.mark.parametrize("calls", [1, 4, 9, 14])
def test_an_objective_on_policy_follows_the_incumbent_and_resumes(tmp_path: Path, calls: int) -> None:
    config = CONFIGS["gcg"].replace(steps=20)
    objective = Drifting()
    expected = search(config, tmp_path / "whole", objective, Letters(dead=third_dies))
    log = lines(tmp_path / "whole")
    assert objective.moves > 2
    for before, line in pairwise(log):
        stays = line["prefix_ids"] == before["prefix_ids"]
        assert line["restart"] > before["restart"] or not stays or line["cost"]["total"] >= before["cost"]["total"]
        assert line["best_ids"] != before["prefix_ids"]
        assert line["cost"]["total"] == pytest.approx(expected.costs[tuple(line["prefix_ids"])], abs=0.2)
    assert len({line["restart"] for line in log}) > 1
    with pytest.raises(Killed):
        search(config, tmp_path / "killed", Drifting(calls), Letters(dead=third_dies))
    assert search(config, tmp_path / "killed", Drifting(), Letters(dead=third_dies)) == expected
    assert untimed(tmp_path / "killed" / LOG) == untimed(tmp_path / "whole" / LOG)


def test_an_init_text_longer_than_the_prefix_is_refused() -> None:
    config = GcgConfig(length=2, init="Wait, think")
    with pytest.raises(ConfigError, match=r"search\.init: 'Wait, think' has 3 tokens, search.length is 2"):
        start_ids((1, 2, 3), config)
    assert start_ids((1, 2), config) == (1, 2)
    assert start_ids(None, config) == ()


def test_a_method_that_begins_nowhere_has_no_use_for_an_init_text() -> None:
    assert start_ids((1, 2, 3), RandomConfig(length=2, init="Wait, think")) == ()


def test_progress_is_a_line_elsewhere_and_a_table_on_a_terminal(tmp_path: Path, capsys, monkeypatch) -> None:
    search(CONFIGS["random"], tmp_path / "lines")
    assert "searching: 12/12 steps, 1,200 tokens, " in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    search(CONFIGS["random"], tmp_path / "table")
    shown = capsys.readouterr().err
    assert "searching: 12 of 12 steps" in shown
    assert "best so far" in shown
    assert "1,200" in shown
    assert driver.ROWS < 12
