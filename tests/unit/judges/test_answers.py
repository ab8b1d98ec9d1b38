"""Answers are graded by what they say: right ones in every form, wrong ones in none."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.judges import answers
from safethink.judges.answers import numbers, options

CHOICES = ("the moon", "a lake of salt", "lake", "the old tower")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The answer is 18.", "18"),
        ("So she pays $1,080 in all.", "1080"),
        ("#### 70,000", "70000"),
        ("That is 3 * 6 = <<3*6=18>>18 eggs\n#### 18", "18"),
        ("A: 26", "26"),
        ("The answer is 18.00 dollars", "18"),
        ("\\boxed{\\$18}", "18.0"),
        ("The answer is 18, since 20 - 2 is 18 and 2 are eaten.", "18"),
        ("The answer is 16 - 3 - 4 = 9 eggs.", "9"),
        ("**Answer:** 7 apples (out of 12)", "7"),
        ("The final answer is -5.", "-5"),
        ("It fell by $-5$.", "-5"),
        ("It is \u22125 degrees", "-5"),
        ("The answer is 10-5=5", "5"),
        ("The answer is 45%.", "45"),
        ("The answer is 45%.", "0.45"),
        ("The answer is 0.45.", "45%"),
        ("The answer is 1/5 of it", "0.2"),
        ("The answer is \\frac{3}{4}.", "0.75"),
        ("The answer is 1 3/4 cups.", "1.75"),
        ("The answer is 1.5 \u00d7 10^3.", "1500"),
        ("The answer is $1.5 \\times 10^{3}$.", "1500"),
        ("The answer is 1.5e3.", "1500"),
        ("They made 1.8 million.", "1800000"),
        ("The answer is 0.333333.", "1/3"),
        ("The answer is five.", "5"),
        ("10{,}080 is it", "10080"),
        ("The answer is clear: \\boxed{7}. Note that the answer is positive.", "7"),
        ("The answer is 4? No: the answer is 5.", "5"),
        ("The answer is 10\\,080.", "10,080"),
        ('{"answer": 12}', "12"),
    ],
)
def test_a_number_is_right_however_it_is_written(answer: str, reference: str) -> None:
    assert answers.is_right(answer, (reference,), "number")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The answer is 18.", "19"),
        ("The answer is 1,080.", "80"),
        ("The answer is 1,080.", "1"),
        ("She has 18. The answer is 7.", "18"),
        ("The answer is 5.", "-5"),
        ("The answer is 1000001.", "1000000"),
        ("The answer is 1000000.5.", "1000001"),
        ("The answer is 1/5.", "5"),
        ("The answer is 0.45.", "45"),
        ("The answer is 0.33.", "1/3"),
        ("The answer is 1/0.", "0"),
        ("The answer is positive.", "1"),
        ("3" * 5000, "3"),
        ("The answer is 1e999999999.", "1"),
        ("", "0"),
        ("The answer is 2.", "2 million"),
    ],
)
def test_another_number_is_wrong(answer: str, reference: str) -> None:
    assert not answers.is_right(answer, (reference,), "number")


def test_any_of_several_references_is_right() -> None:
    assert answers.is_right("The answer is four.", ("3", "4"))
    assert not answers.is_right("The answer is 5.", ("3", "4"))
    assert not answers.is_right("The answer is 5.", ())


@pytest.mark.parametrize("answer", ["12 or 13", "The answer is unknown.", "\\boxed{}", "\\boxed{", "#### ", "####"])
def test_what_names_no_number_is_wrong(answer: str) -> None:
    assert not answers.is_right(answer, ("99",), "number")


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(["The answer is {}.", "#### {}", "\\boxed{{{}}}", "It is {} km"])
)
def test_every_integer_is_read_back_with_and_without_commas(number: int, form: str) -> None:
    for written in (f"{number}", f"{number:,}", f"{number}.0", f"${number}" if number >= 0 else f"-${-number}"):
        assert answers.is_right(form.format(written), (str(number),), "number")
        assert not answers.is_right(form.format(written), (str(number + 1),), "number")


@given(st.fractions(max_denominator=10**6))
def test_every_fraction_is_read_back(number: Fraction) -> None:
    found = numbers.whole(f"{number.numerator}/{number.denominator}")
    assert found is not None
    assert found.value == number


@given(
    st.text(max_size=200), st.text(max_size=40), st.sampled_from(["number", "latex", "option", "true_false", "words"])
)
def test_any_text_is_graded_without_an_error(answer: str, reference: str, kind: answers.AnswerKind) -> None:
    assert answers.is_right(answer, (reference,), kind, CHOICES) in (True, False)


@given(st.text("\\{}^_$()[]&!|/+-*=,.0123456789abxfracsqrtboxedpi ", max_size=60))
def test_any_formula_is_graded_without_an_error(text: str) -> None:
    assert answers.is_right(f"\\boxed{{{text}}}", (text[::-1],), "latex") in (True, False)


FORMS = (
    "{letter}",
    "({letter})",
    "{letter}. {text}",
    "{letter}) {text}",
    "The answer is {letter}.",
    "The answer is ({letter}) {text}.",
    "The correct answer is {text}.",
    "\\boxed{{{letter}}}",
    "\\boxed{{\\text{{{letter}}}}}",
    "\\boxed{{\\text{{({letter})}}}}",
    "**{letter}**",
    "Answer: {letter}",
    "So the right choice is {letter} because of its colour.",
    "Option {letter} is correct. I think so.",
    "answer{number}",
    "the correct answer is answer{number}",
    "{text}",
    "I would say {text}.",
    "(A) is wrong, it is too small.\n(B) is wrong as well.\nThe answer is {letter}.",
    "answer1/answer2/answer3/answer4\n\nthe correct answer is answer{number}",
    '{{"answer": "{letter}"}}',
)


@pytest.mark.parametrize("form", FORMS)
def test_an_option_is_told_by_label_and_by_text(form: str) -> None:
    def shown(pattern: str, place: int) -> str:
        return pattern.format(letter="ABCD"[place], number=place + 1, text=CHOICES[place])

    for said, place, reference in product(range(4), range(4), ("answer{number}", "{letter}", "({letter})", "{text}")):
        right = answers.is_right(shown(form, said), (shown(reference, place),), "option", CHOICES)
        assert right is (place == said), (shown(form, said), shown(reference, place))


@pytest.mark.parametrize(
    "answer",
    [
        "The answer is A or B.",
        "The answer is not A.",
        "A plant needs light and water.",
        "I cannot tell.",
        "",
        "A/B/C/D",
        "(A) and (B) look alike.",
        "The answer is a matter of taste.",
        "It is either the moon or the old tower.",
    ],
)
def test_an_answer_that_settles_on_no_option_is_wrong(answer: str) -> None:
    assert options.chosen(answer, CHOICES) is None


def test_numbers_as_options_are_told_from_their_places() -> None:
    amounts = ("3", "1", "4", "2")
    assert options.chosen("The answer is 4.", amounts) == 2
    assert options.chosen("answer4", amounts) == 3
    assert options.chosen("The answer is answer 4.", amounts) == 3
    assert options.chosen("D", amounts) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("true", True),
        ("the correct answer is false", False),
        ("In 1999 there were 3 of them, so it is true.", True),
        ("Yes, since 1999.", True),
        ("No. It was true once.", False),
        ("It is not true.", False),
        ("That isn't false.", True),
        ("Is it true or false? It is false", False),
        ("The answer is yes", True),
        ("There is no doubt that it is true.", True),
        ("\\boxed{\\text{No}}", False),
        ("So the answer, after all, is no.", False),
    ],
)
def test_true_and_false_are_read_in_either_words(answer: str, said: bool) -> None:
    for kind in ("true_false", "yes_no"):
        assert answers.is_right(answer, ("true",), kind) is said
        assert answers.is_right(answer, ("no",), kind) is not said


@pytest.mark.parametrize("answer", ["", "1999", "true/false", "perhaps"])
def test_neither_true_nor_false_is_wrong_both_ways(answer: str) -> None:
    assert not answers.is_right(answer, ("true",), "true_false")
    assert not answers.is_right(answer, ("false",), "true_false")


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Paris", "Paris", True),
        ("The answer is Paris, the capital.", "paris", True),
        ("It is the Eiffel Tower.", "Eiffel Tower", True),
        ("\\boxed{\\text{Evelyn}}", "Evelyn", True),
        ("The answer is Rome. I had thought of Paris", "Paris", False),
        ("It is not Paris.", "Paris", False),
        ("It is in Comparis", "Paris", False),
        ("", "Paris", False),
        ("", "!", False),
    ],
)
def test_words_are_compared_by_case_and_article_aside(answer: str, reference: str, right: bool) -> None:
    assert answers.is_right(answer, (reference,), "words") is right


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("18", "number"),
        ("$1,080.50", "number"),
        ("45%", "number"),
        ("7 apples", "number"),
        ("True", "true_false"),
        ("no", "yes_no"),
        ("C", "option"),
        ("(b)", "option"),
        ("answer3", "option"),
        ("\\frac{1}{2}", "number"),
        ("\\frac{1}{2}x", "latex"),
        ("x^2", "latex"),
        ("(1, 2)", "latex"),
        ("Paris", "words"),
        ("the old tower", "words"),
    ],
)
def test_the_kind_of_a_reference_is_told_by_its_form(reference: str, kind: str) -> None:
    assert answers.kind_of(reference) == kind
    assert answers.is_right(f"The answer is {reference}.", (reference,))
