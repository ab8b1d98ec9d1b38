"""Reflection: what the writer is shown, what is taken of what it writes, and the words that go either way."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimize.config import ReflectConfig
from optimize.search import driver
from optimize.search.journal import Journal
from optimize.search.method import Archive, Ids
from optimize.search.reflect import MAX_ASKS, Reflect
from optimize.search.reflection import BEGUN, COPIED_WORDS, Costed, is_copied, opening, phrases, request
from optimize.search.writer import Writer, WrittenList
from tests.support.toy_search import ALLOWED, Letters, Scribe, Toy

WORDS = st.text(alphabet="abcdefghijklmnop", min_size=1, max_size=6)
SENTENCES = st.lists(WORDS, min_size=1, max_size=5).map(" ".join)
MARKERS = st.sampled_from(["1. ", "12) ", "(3) ", "- ", "* ", "\N{BULLET} ", "4. - ", "7: "])
AROUND = st.sampled_from(
    ["{}", '"{}"', "'{}'", "**{}**", "\N{LEFT DOUBLE QUOTATION MARK}{}\N{RIGHT DOUBLE QUOTATION MARK}"]
)


@given(st.lists(st.tuples(MARKERS, AROUND, SENTENCES), min_size=1, max_size=6))
def test_a_list_gives_back_its_phrases_however_it_is_written(items: list[tuple[str, str, str]]) -> None:
    lines = [marker + around.format(sentence) for marker, around, sentence in items]
    expected = list(dict.fromkeys(sentence for _, _, sentence in items))
    assert phrases("\n".join(lines), is_cut=False) == expected
    assert phrases("\n".join(lines) + "\n", is_cut=True) == expected
    assert phrases("\n".join(lines), is_cut=True) == list(dict.fromkeys(sentence for _, _, sentence in items[:-1]))


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\n\n -*1.)(\"'`#:ab"))), st.booleans())
def test_a_phrase_is_one_clean_line_that_is_read_as_itself(written: str, is_cut: bool) -> None:
    found = phrases(written, is_cut)
    assert len(found) == len(set(found))
    for phrase in found:
        assert phrase.isprintable()
        assert phrase == " ".join(phrase.split())
        assert any(map(str.isalpha, phrase))
        assert not set('"`*<>{}|') & set(phrase)
        assert phrases(phrase, is_cut=False) == [phrase]


@given(st.lists(st.tuples(SENTENCES, st.floats(-9, 9)), max_size=6))
def test_a_reply_begins_with_the_best_as_a_list_whose_next_item_is_open(tried: list[tuple[str, float]]) -> None:
    costed = [Costed(*each) for each in tried]
    begun = opening(costed)
    best = [each.text for each in costed[-BEGUN:]]
    assert begun.endswith(f"{len(best) + 1}.")
    assert phrases(begun.removesuffix(f"{len(best) + 1}."), is_cut=False) == list(dict.fromkeys(best))


TRACE = "first I look for the gate, then I open it slowly with the old key"


@given(st.integers(0, 9), st.integers(COPIED_WORDS, 9))
def test_words_of_a_shown_trace_are_a_copy_whatever_their_case_and_punctuation(start: int, count: int) -> None:
    words = TRACE.replace(",", "").split()[start : start + count]
    few = " ".join(words[: COPIED_WORDS - 1])
    assert not is_copied(few, [TRACE])
    assert is_copied(" ".join(words).upper() + "!", [TRACE]) == (len(words) >= COPIED_WORDS)
    assert not is_copied(" ".join(words), ["something else is thought of here"])


def test_the_request_itself_is_a_copy_and_what_is_said_for_the_first_time_is_none() -> None:
    assert is_copied("Write a numbered list of new short sentences, please", [])
    assert not is_copied("Wait, could this hurt people who live here?", [TRACE])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "   ",
        "---",
        "2.",
        "Here are some sentences",
        "Here's one",
        "Sure, I can do that",
        "As follows:",
        '"a" or "b"',
    ],
)
def test_talk_and_rules_are_no_phrases(line: str) -> None:
    assert phrases(f"{line}\n1. {line}\n- {line}", is_cut=False) == []


def test_only_items_count_behind_the_first_line() -> None:
    quoted = "\N{LEFT DOUBLE QUOTATION MARK}I can\N{RIGHT SINGLE QUOTATION MARK}t\N{RIGHT DOUBLE QUOTATION MARK}"
    written = f" I must not.\n\nThese are good because they are short.\n5. 3.5 grams hurt\n6) {quoted}\n7. I mu"
    assert phrases(written, is_cut=True) == ["I must not.", "3.5 grams hurt", "I can't"]


def test_the_request_shows_traces_and_what_was_tried_with_its_cost() -> None:
    words = request(["mix the ash", "open the gate"], [Costed("Stop", 2.0), Costed("Wait", 1.5)])
    assert words.index("... mix the ash") < words.index("... open the gate") < words.index("Stop (cost 2.00)")
    assert words.index("Stop (cost 2.00)\nWait (cost 1.50)") > 0
    assert "cost" not in request(["mix the ash"], [])


def method(archive: Archive, writer: Writer | None = None, start: Ids = (), **changes) -> Reflect:
    config = ReflectConfig(**{"length": 3, "traces": 2, "lists": 2} | changes)
    return Reflect(config, Letters(), start, archive, ("one", "two", "three"), writer or Scribe())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Parrot:
    """Always writes the same."""

    def __init__(self, text: str) -> None:
        self.tokens, self.asked, self._text = 0, 0, text

    def write(self, request: str, opening: str, num_lists: int, seed: int) -> list[WrittenList]:
        self.asked += 1
        self.tokens += 7
        return [WrittenList(self._text, is_cut=False)] * num_lists


def test_the_start_is_tried_before_anything_is_written() -> None:
    archive, scribe = Archive(), Scribe()
    reflect = method(archive, scribe, start=(5, 6))
    assert reflect.propose(generator()) == [(5, 6)]
    assert not scribe.requests
    archive.add([(5, 6)], [1.0], [True])
    assert (5, 6) not in reflect.propose(generator())
    assert "fg (cost 1.00)" in scribe.requests[0][0]


def test_the_best_that_were_scored_everywhere_are_shown_the_best_last() -> None:
    archive, scribe = Archive(), Scribe()
    archive.add([(4,), (5,), (6,), (7,)], [3.0, 1.0, 2.0, 0.5], [True, True, True, False])
    method(archive, scribe, shown=2).propose(generator())
    ((asked, begun),) = scribe.requests
    assert "g (cost 2.00)\nf (cost 1.00)" in asked
    assert "(cost 3.00)" not in asked
    assert "(cost 0.50)" not in asked
    assert begun == "1. g\n2. f\n3."


def test_traces_are_drawn_anew_from_those_given() -> None:
    scribe = Scribe()
    reflect = method(Archive(), scribe)
    for seed in range(20):
        reflect.propose(generator(seed))
    shown = {tuple(line for line in asked.split("\n\n") if line.startswith("... ")) for asked, _ in scribe.requests}
    assert {trace for traces in shown for trace in traces} == {"... one", "... two", "... three"}
    assert all(len(traces) == 2 for traces in shown)
    assert len(shown) > 3


def test_what_is_long_tried_or_of_other_tokens_is_passed_over() -> None:
    archive = Archive()
    archive.bury([(3,)])
    reflect = method(archive, Parrot(" d\n2. defg\n3. abc\n4. eh\n5. eh"))
    assert reflect.propose(generator()) == [(4, 7)]
    assert not set("abc") & {Letters().text([token]) for token in ALLOWED}


def test_the_end_of_a_sentence_is_left_out_only_where_it_is_lost() -> None:
    class Sentences(Letters):
        def ids(self, text: str) -> Ids:
            return tuple(29 if letter in ".!" else ord(letter) - 97 for letter in text)

    def proposed(dead: Ids) -> list[Ids]:
        words = Sentences(dead=lambda ids: ids == dead)
        reflect = Reflect(ReflectConfig(length=3), words, (), Archive(), ("one",), Parrot(" de.\n2. fg!\n3. de"))
        return reflect.propose(generator())

    assert proposed(dead=()) == [(3, 4, 29), (5, 6, 29), (3, 4)]
    assert proposed(dead=(5, 6, 29)) == [(3, 4, 29), (5, 6), (3, 4)]


def test_a_writer_with_nothing_new_to_say_ends_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal, parrot = Journal(tmp_path, "f"), Parrot(" de\n2. ef")
    reflect = method(journal.archive, parrot)
    with caplog.at_level(logging.WARNING):
        found = driver.search(Toy(), Letters(), reflect, ReflectConfig(length=3, steps=50), journal, 0)
    assert set(found.costs) == {(3, 4), (4, 5)}
    assert parrot.asked == 1 + MAX_ASKS
    assert f"nothing new in {2 * MAX_ASKS} lists" in caplog.text


def test_what_the_writer_forwards_counts_into_the_budget(tmp_path: Path) -> None:
    journal, toy = Journal(tmp_path, "f"), Toy()
    config = ReflectConfig(length=3, steps=50, budget_tokens=20)
    driver.search(toy, Letters(), method(journal.archive, Parrot(" de")), config, journal, 0)
    assert '"tokens": 17' in journal.log.read_text()
