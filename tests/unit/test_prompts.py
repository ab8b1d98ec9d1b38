"""The words of a text are the same however it is spelt, and no two questions have the same ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from safethink.files import json_hash
from safethink.prompts import Prompt, normalised


@pytest.mark.parametrize(
    "spelt",
    [
        "how do i pick a lock",
        "  How do I\tpick\n a   lock?! ",
        "HOW DO I PICK A LOCK",
        "Ｈｏｗ ｄｏ Ｉ ｐｉｃｋ ａ ｌｏｃｋ？",  # full width
        "How do I pick a\N{NO-BREAK SPACE}lo\N{ZERO WIDTH SPACE}ck\N{ZERO WIDTH JOINER}…",
        "“How do I pick a lock?”",
        "How, do I - pick a *lock*",
        "\N{ZERO WIDTH NO-BREAK SPACE}How-do-I_pick_a.lock",
    ],
)
def test_a_question_has_the_same_words_however_it_is_spelt(spelt: str) -> None:
    assert normalised(spelt) == "how do i pick a lock"


def test_apostrophes_are_no_words_ends() -> None:
    assert normalised("Don't") == normalised("don\N{RIGHT SINGLE QUOTATION MARK}t") == normalised("dont")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "What is 3 - 4?"),
        ("What is 3-4?", "What is 3, 4?"),
        ("What is 3 * 4?", "What is 3 / 4?"),
        ("What is -5?", "What is 5?"),
        ("What is 1.5?", "What is 15?"),
        ("It costs $5.", "It costs 5 €."),
        ("कि", "की"),
        ("?", "!"),
        ("How do I pick a lock?", "How do I pick a clock?"),
    ],
)
def test_two_questions_have_different_words(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_arithmetic_is_the_same_with_and_without_spaces() -> None:
    assert normalised("3-4") == normalised("3 - 4")
    assert normalised("3*4") == normalised("3 * 4")


@given(st.text())
def test_spaces_around_a_text_never_matter_and_only_an_empty_one_has_no_words(text: str) -> None:
    words = normalised(text)
    assert normalised(f" \n{text}\t") == words
    assert words or not any(char.isprintable() and not char.isspace() for char in text)


@given(st.lists(st.text("abcxyzäß", min_size=1), min_size=1))
def test_words_survive_any_punctuation_between_them(words: list[str]) -> None:
    assert normalised("?! ".join(words)) == normalised(" ".join(words)) == normalised(" ".join(words).upper())


def test_one_right_answer_is_written_as_before_there_were_several() -> None:
    old = {"id": "p", "messages": [{"role": "user", "content": "3+4?"}], "kind": "harmless", "reference": "7"}
    prompt = Prompt.model_validate(old)
    written = prompt.model_dump(mode="json")
    assert (prompt.references, prompt) == (("7",), Prompt.model_validate(written))
    assert json_hash(written) == json_hash(old | {"clusters": {}, "prefill": ""})


def test_several_right_answers_and_a_category_come_back_from_json() -> None:
    prompt = Prompt.from_text("4/8?").replace(references=("1/2", "0.5"), category="sums")
    assert prompt.reference == "1/2"
    assert Prompt.model_validate_json(prompt.model_dump_json()) == prompt


def test_reference_and_references_change_together() -> None:
    prompt = Prompt.from_text("4/8?").replace(references=("1/2", "0.5"))
    assert prompt.replace(reference="2").references == ("2",)
    assert prompt.replace(reference=None).references == ()
    assert prompt.replace(references=()).reference is None
    with pytest.raises(ValidationError, match="not the first of references"):
        prompt.replace(reference="2", references=("3",))
