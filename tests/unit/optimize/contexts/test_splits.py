"""What is asked stands on one side of a split, however it is spelt; what is held out is never learned on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.contexts.splits import Split, of_file, of_prompts, refuse_shared
from safethink.errors import ConfigError
from safethink.prompts import Message, Prompt, normalised
from safethink.seeds import stable_seed

RESPELT: list[Callable[[str], str]] = [
    str.upper,
    lambda text: f"  {text}?! ",
    lambda text: text.replace(" ", "\n\t"),
    lambda text: "".join(chr(ord(char) + 0xFEE0) if char.isascii() and char.isalnum() else char for char in text),
    lambda text: "\N{ZERO WIDTH SPACE}".join(text),
    lambda text: f"“{text.replace(' ', ' - ')}…”",
]


def lines_of(texts: dict[str, str | None] | list[tuple[str, str | None]]) -> list[dict[str, str]]:
    pairs = texts if isinstance(texts, list) else list(texts.items())
    return [{"prompt": text} | ({} if split is None else {"split": split}) for text, split in pairs]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    def written(lines: list[dict[str, Any]]) -> Path:
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    return written


def texts(split: Split) -> set[str]:
    return {normalised(prompt.text) for prompt in split.prompts}


@pytest.mark.parametrize("respell", RESPELT)
def test_the_same_question_stands_on_one_side(respell: Callable[[str], str], write) -> None:
    asked = [f"mix the parts number {n}" for n in range(30)]
    search, validation = of_file(write(lines_of([(text, None) for text in [*asked, *map(respell, asked)]])))
    assert len(search.prompts) + len(validation.prompts) == 60
    assert not texts(search) & texts(validation)
    assert texts(validation)


def test_groups_that_share_a_question_stand_on_one_side_too() -> None:
    def prompt(text: str, group: int) -> Prompt:
        return Prompt.from_text(text, id=f"{text}/{group}").replace(clusters={"group": str(group)})

    chained = [prompt(text, n) for n in range(20) for text in (f"ask {n}", f"Ask {n + 1}!")]
    with pytest.raises(ConfigError, match="too few"):
        of_prompts(chained)
    search, validation = of_prompts([*chained, *(prompt(f"other {n}", 100 + n) for n in range(9))])
    assert not texts(search) & texts(validation)
    assert len({each in texts(search) for each in map(normalised, (f"ask {n}" for n in range(21)))}) == 1


def test_prompts_of_which_none_asks_the_same_are_split_as_ever() -> None:
    prompts = [Prompt.from_text(f"mix {n}", id=f"p{n}") for n in range(30)]
    search, validation = of_prompts(prompts)
    drawn = sorted((prompt.id for prompt in prompts), key=lambda name: stable_seed("split", name))
    assert {prompt.id for prompt in validation.attacks} == set(drawn[::3])
    assert {prompt.id for prompt in search.attacks} == set(drawn) - set(drawn[::3])


@pytest.mark.parametrize("respell", RESPELT)
@pytest.mark.parametrize("names", [("search", "validation"), (None, None)])
def test_what_test_asks_is_never_learned_on_and_it_is_said(names, respell, write, caplog) -> None:
    held_out = [f"held out number {n}" for n in range(6)]
    learned = [f"mix the parts number {n}" for n in range(12)]
    pairs = [(text, "test") for text in held_out] + [(text, names[n % 2]) for n, text in enumerate(learned)]
    pairs += [(respell(text), names[n % 2]) for n, text in enumerate(held_out)]
    search, validation = of_file(write(lines_of(pairs)))
    assert texts(search) | texts(validation) == set(map(normalised, learned))
    assert not texts(search) & texts(validation)
    assert "ask what is held out, line 19 first: left out" in caplog.text


def test_a_system_prompt_a_prefill_or_an_earlier_turn_of_the_reasoner_makes_no_other_question(write) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Held OUT!"}]
    lines: list[dict[str, Any]] = [
        {"prompt": "held out", "split": "test"},
        {"messages": turns},
        {"prompt": "held out", "prefill": "Sure.", "id": "prefilled"},
        *({"prompt": f"mix {n}"} for n in range(9)),
    ]
    search, validation = of_file(write(lines))
    assert "held out" not in texts(search) | texts(validation)
    turned = Prompt(
        id="turned",
        messages=(
            Message(role="user", content="mix 1"),
            Message(role="assistant", content="why?"),
            Message(role="user", content="held out"),
        ),
    )
    others = [Prompt.from_text(f"mix {n}", id=str(n)) for n in range(9)]
    assert len(of_prompts([turned, *others])[0].prompts) + len(of_prompts([turned, *others])[1].prompts) == 10


def test_what_validation_asks_is_not_searched_on(write, caplog) -> None:
    pairs = [("a", "search"), ("b", "search"), ("B!", "validation"), ("c", "validation")]
    search, validation = of_file(write(lines_of(pairs)))
    assert (texts(search), texts(validation)) == ({"a"}, {"b", "c"})
    assert "1 of the split 'search' ask what is held out, line 2 first: left out" in caplog.text
    with pytest.raises(ConfigError, match="everything that the split 'search' asks is held out"):
        of_file(write(lines_of([("a", "search"), ("A", "validation")])))


@pytest.mark.parametrize("name", ["train", "dev", "Test", "held_out", "Search", "validation ", ""])
def test_an_unknown_split_is_refused_by_line_and_name(name: str, write) -> None:
    path = write(lines_of([("a", "search"), ("b", "validation"), ("c", name)]))
    message = f"{path}:3: the split {name!r} is none to learn by; it is search, validation or test"
    with pytest.raises(ConfigError, match=re.escape(message)):
        of_file(path)


def test_lines_without_a_split_among_others_are_refused(write) -> None:
    path = write(lines_of([("a", None), ("b", "search"), ("c", "validation")]))
    with pytest.raises(ConfigError, match=rf"{re.escape(str(path))}:1: no split, and line 2 names 'search'"):
        of_file(path)
    alone = [(f"mix {n}", None) for n in range(9)]
    search, validation = of_file(write(lines_of([("a", "test"), *alone])))
    assert len(search.prompts) + len(validation.prompts) == 9


def test_an_id_that_stands_twice_is_refused_whatever_the_split(write) -> None:
    lines = [{"prompt": "a", "split": "search", "id": "x"}, {"prompt": "b", "split": "validation", "id": "x"}]
    with pytest.raises(ConfigError, match=":2: the id 'x' stands twice"):
        of_file(write(lines))


def test_splits_that_are_taken_as_they_are_written_must_not_share_a_question(write) -> None:
    refuse_shared(write(lines_of([("a", "search"), ("A", "search"), ("b", "validation"), ("c", "test")])))
    path = write(lines_of([("a", "search"), ("b", "validation"), ("A!", "test")]))
    message = f"{path}:3: asks what line 1 asks, and stands in 'test', not 'search'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        refuse_shared(path)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghij"), st.sampled_from("vwxyz"), st.sampled_from(range(len(RESPELT)))),
        min_size=1,
        max_size=30,
    )
)
def test_no_group_and_no_question_is_ever_on_both_sides(drawn: list[tuple[str, str, int]]) -> None:
    prompts = [
        Prompt.from_text(RESPELT[spelt](f"ask {word}"), id=str(n)).replace(clusters={"group": group})
        for n, (word, group, spelt) in enumerate(drawn)
    ]
    try:
        search, validation = of_prompts(prompts)
    except ConfigError:
        return
    assert not texts(search) & texts(validation)
    groups = [{prompt.clusters["group"] for prompt in split.prompts} for split in (search, validation)]
    assert not groups[0] & groups[1]
    assert len(search.prompts) + len(validation.prompts) == len(prompts)
