"""Phrases: tried as a whole where they are few, chosen by Optuna where they are many, and never by a loss."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.config import PhrasesConfig
from optimize.search.journal import LOG, Journal
from optimize.search.method import Archive
from optimize.search.phrases import Grammar, search_phrases
from optimize.search.vocabulary import Vocabulary
from safethink.errors import ConfigError, SafeThinkError
from tests.support import tiny_reasoner
from tests.support.toy_search import TOKENS_PER_CANDIDATE, Letters, States, Toy

POOL = ("did", "fed", "hid", "kid", "lid")
SLOTS = (tuple("defgh"), ("", *"ijklm"), tuple("nopqr"))


def config(**changes) -> PhrasesConfig:
    return PhrasesConfig(**{"length": 3, "steps": 60} | changes)


def run(settings: PhrasesConfig, folder: Path, states: States | None = None, words=None, seed: int = 0) -> Archive:
    folder.mkdir(exist_ok=True)
    return search_phrases(settings, states or States(Toy()), words or Letters(), Journal(folder, "f"), seed)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


@given(
    st.lists(st.text(max_size=3), max_size=4),
    st.lists(st.lists(st.text(max_size=2), min_size=1, max_size=3), max_size=3),
)
def test_a_grammar_counts_and_writes_down_all_its_phrases(pool: list[str], slots: list[list[str]]) -> None:
    expected = pool + (["".join(choice) for choice in product(*slots)] if slots else [])
    settings = config(pool=tuple(pool), slots=tuple(map(tuple, slots)))
    if not expected:
        with pytest.raises(ConfigError, match="there are no phrases"):
            Grammar(settings)
        return
    grammar = Grammar(settings)
    assert [grammar.text(choice) for choice in grammar.choices()] == expected
    assert len(grammar) == len(expected)
    for choice in list(grammar.choices())[len(pool) :]:
        near = [grammar.text(other) for other in grammar.neighbours(choice)]
        assert len(near) == sum(len(slot) - 1 for slot in slots)
        assert set(near) <= set(expected)
    assert grammar.sizes() == ({f"slot {n}": len(slot) for n, slot in enumerate(slots)} or {"pool": len(pool)})


def test_a_slot_without_a_choice_is_named() -> None:
    with pytest.raises(ConfigError, match=r"search\.slots: slot 1 has no choice"):
        Grammar(config(slots=(("a",), ())))


def test_few_phrases_are_all_tried_at_every_state_in_the_order_written(tmp_path: Path) -> None:
    states = States(Toy())
    archive = run(config(pool=POOL), tmp_path, states)
    assert list(archive.costs) == [Letters().ids(text) for text in POOL]
    assert len(states.tried) == len(set(states.tried)) == len(POOL) * states.num_contexts
    log = lines(tmp_path)
    assert [line["best_cost"]["contexts"] for line in log] == [24.0] * len(POOL)
    assert [line["best_ids"] for line in log] == [list(ids) for ids in archive.costs]
    for line in log:
        recovered = states.recovered(tuple(line["best_ids"]), range(24))
        assert line["best_cost"]["total"] == line["best_cost"]["unrecovered"]
        assert line["best_cost"]["total"] == pytest.approx(1 - sum(recovered) / 24)
    assert archive.ranked()[0] == min(archive.costs, key=states.toy.total)


def test_a_grammar_is_joined_as_written_and_too_long_or_empty_phrases_are_passed_over(tmp_path: Path) -> None:
    archive = run(config(pool=("", "deed", "d"), slots=(("", "e", "ee"), ("", "ff"))), tmp_path)
    assert [Letters().text(ids) for ids in archive.costs] == ["d", "ff", "e", "eff", "ee"]


def test_no_phrase_is_short_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search\.length: no phrase has at most 2 tokens"):
        run(config(pool=POOL, length=2), tmp_path)


def test_phrases_that_move_harmless_continuations_too_far_are_dropped(tmp_path: Path) -> None:
    states = States(Toy())
    kls = {Letters().ids(text): states.divergence(Letters().ids(text)) for text in POOL}
    limit = sorted(kls.values())[-2]
    archive = run(config(pool=POOL, max_kl=limit), tmp_path, states)
    assert set(archive.ranked()) == {ids for ids, kl in kls.items() if kl <= limit}
    assert 0 < len(archive.ranked()) < len(POOL)
    assert sum(line["dropped"] for line in lines(tmp_path)) == len(POOL) - len(archive.ranked())
    with pytest.raises(SafeThinkError, match=f"search.max_kl: {len(POOL)} phrases"):
        run(config(pool=POOL, max_kl=1e-9), tmp_path / "none")


@pytest.mark.slow
def test_of_many_phrases_the_pool_comes_first_and_hopeless_ones_are_stopped_early(tmp_path: Path) -> None:
    states = States(Toy())
    archive = run(config(pool=POOL, slots=SLOTS, exhaustive_below=10), tmp_path, states)
    assert list(archive.costs)[: len(POOL)] == [Letters().ids(text) for text in POOL]
    assert len(archive) == 60
    assert 0 < len(archive.estimated) < 60
    assert len(states.tried) < 60 * states.num_contexts
    assert not archive.estimated & set(archive.ranked()[: 60 - len(archive.estimated)])
    stopped = [line for line in lines(tmp_path) if tuple(line["best_ids"]) in archive.estimated]
    assert all(line["best_cost"]["contexts"] < 24 for line in stopped)
    least = min(archive.costs[ids] for ids in archive.ranked() if ids not in archive.estimated)
    assert all(archive.costs[ids] > least for ids in archive.estimated)


@pytest.mark.slow
def test_optuna_finds_better_phrases_than_chance(tmp_path: Path) -> None:
    toy, words = Toy(), Letters()
    everything = sorted(toy.total(words.ids("".join(choice))) for choice in product(*SLOTS))
    found = []
    for seed in range(3):
        archive = run(config(slots=SLOTS, exhaustive_below=10, steps=40), tmp_path / str(seed), seed=seed)
        later = list(archive.costs)[20:]
        found.append(sum(everything.index(toy.total(ids)) for ids in later) / len(later))
    assert sum(found) / len(found) < 0.7 * len(everything) / 2


def test_a_grammar_is_worked_through_to_its_end(tmp_path: Path) -> None:
    slots = (("d", "e"), ("f", "g"), ("h", "i"))
    for pool, slots_, count in ((), slots, 8), (POOL, (), 5):
        folder = tmp_path / str(count)
        archive = run(config(pool=pool, slots=slots_, exhaustive_below=1), folder)
        assert len(archive) == len(lines(folder)) == count


def test_states_come_shuffled(tmp_path: Path) -> None:
    orders = []
    for seed in (0, 1):
        states = States(Toy())
        run(config(pool=POOL), tmp_path / str(seed), states, seed=seed)
        orders.append([context for _, context in states.tried[:24]])
    assert orders[0] != orders[1] != sorted(orders[1])
    assert sorted(orders[0]) == list(range(24))


def test_a_budget_counts_what_the_states_count(tmp_path: Path) -> None:
    run(config(pool=POOL, budget_tokens=3 * TOKENS_PER_CANDIDATE), tmp_path)
    assert [line["tokens"] for line in lines(tmp_path)] == [10, 20, 30]


def test_a_text_is_read_as_text_and_control_strings_do_not_survive() -> None:
    tokenizer = tiny_reasoner.tokenizer()
    words = Vocabulary(tokenizer, range(len(tokenizer)))
    plain, forged = words.ids("wait, think"), words.ids("wait <|im_end|>")
    assert list(plain) == tokenizer.encode("wait, think")
    assert not set(forged) & set(tokenizer.all_special_ids)
    assert words.text(forged) == "wait <|im_end|>"
    assert words.survive([plain, forged]) == [True, False]
