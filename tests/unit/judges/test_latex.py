"""Answers in LaTeX are compared by form, by parts and by value."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safethink.judges import answers
from safethink.judges.answers import expressions, latex, library

SAME = [
    ("\\frac{1}{2}", "0.5"),
    ("\\dfrac12", "\\frac{1}{2}"),
    ("1/2", "\\tfrac{1}{2}"),
    ("\\frac 59", "5/9"),
    ("\\frac9{19}", "\\frac{9}{19}"),
    ("1\\frac{4}{5}", "\\frac{9}{5}"),
    ("\\frac{3\\sqrt{3}}{4}", "\\frac34\\sqrt3"),
    ("3\u221a3/4", "\\frac{3\\sqrt{3}}{4}"),
    ("3*sqrt(3)/4", "\\frac{3\\sqrt{3}}{4}"),
    ("\\sqrt{8}", "2\\sqrt{2}"),
    ("\\sqrt[3]{-8}", "-2"),
    ("2\\pi + 18", "18+2\\pi"),
    ("18 + 2\u03c0", "18+2\\pi"),
    ("x^2-1", "(x-1)(x+1)"),
    ("2(k+1)", "2k+2"),
    ("6+9i", "9i + 6"),
    ("\\cot x", "\\frac{\\cos x}{\\sin x}"),
    ("\\log_2 8", "3"),
    ("\\binom{5}{2}", "10"),
    ("5!", "120"),
    ("a_{1} + a_2", "a_2+a_1"),
    ("90^\\circ", "90"),
    ("90\u00b0", "90^{\\circ}"),
    ("\\frac{270}7\\text{ degrees}", "\\frac{270}{7}"),
    ("15\\mbox{ cm}^2", "15"),
    ("864 inches^2", "864 \\mbox{ inches}^2"),
    ("5.4 cents", "5.4 \\text{ cents}"),
    ("\\$18.90", "18.90"),
    ("10080", "10,\\!080"),
    ("58500", "58,500"),
    ("25\\%", "25"),
    ("x=5", "5"),
    ("5", "x = 5"),
    ("2 + 3 = 5", "5"),
    ("x \\in [-2,7]", "[-2,7]"),
    ("y = 2x + 3", "y=3+2x"),
    ("10x - 14y + 22z + 8 = 0", "5x - 7y + 11z + 4 = 0"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"),
    ("(-\\infty, 2) \\cup (3, \\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
    ("(0.6, 8/3]", "\\left(\\frac{3}{5},\\frac{8}{3}\\right]"),
    ("-2, 1", "1,-2"),
    ("\\{1, -2\\}", "1,-2"),
    ("1 \\text{ or } -2", "1,-2"),
    ("1+\\sqrt{19}, 1-\\sqrt{19}", "1 \\pm \\sqrt{19}"),
    ("\\begin{bmatrix} 0.5 \\\\ 2 \\end{bmatrix}", "\\begin{pmatrix} 1/2 \\\\ 2 \\end{pmatrix}"),
    ("Evelyn", "\\text{Evelyn}"),
    ("\\text{(C)}", "C"),
    ("52", "52_8"),
    ("4210_{5}", "4210_5"),
    ("1{,}000", "1000"),
]


@pytest.mark.parametrize(("said", "reference"), SAME)
def test_the_same_mathematics_is_right(said: str, reference: str) -> None:
    assert latex.same(said, reference)
    assert answers.is_right(f"So we have $\\boxed{{{said}}}$.", (reference,), "latex")
    assert answers.is_right(f"The answer is ${said}$.", (reference,), "latex") or "$" in said


@pytest.mark.parametrize(
    ("said", "reference"),
    [
        ("\\frac{1}{2}", "2"),
        ("\\frac{1}{3}", "0.33"),
        ("x^2+1", "x^2-1"),
        ("x", "y"),
        ("(1,2)", "(2,1)"),
        ("(3,4)", "(3,4]"),
        ("(2,\\infty)", "(2,4)"),
        ("(0,9)", "(0,9) \\cup (9,36)"),
        ("1,-2,3", "1,-2"),
        ("1", "1,-2"),
        ("1,1", "1"),
        ("1 + \\sqrt{19}", "1 \\pm \\sqrt{19}"),
        ("y = 2x + 3", "y = 2x - 3"),
        ("x = 5", "y = 5"),
        ("5x - 7y + 11z + 4 = 0", "0"),
        ("x < 5", "x > 5"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 & 2 \\end{pmatrix}"),
        ("\\text{Evelyn}", "\\text{Navin}"),
        ("\\text{(C)}", "D"),
        ("52_7", "52_8"),
        ("40_9", "40"),
        ("", "1"),
        ("2^{100}", "2^{100}+1"),
        ("11111111111111111112", "11111111111111111111"),
        ("\\infty", "-\\infty"),
        ("9^{9^{9^{9}}}", "9"),
        ("(" * 3000, "1"),
    ],
)
def test_other_mathematics_is_wrong(said: str, reference: str) -> None:
    assert not latex.same(said, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("so $17^{-1} \\equiv \\boxed{44} \\pmod{83}$. We check our answer: it is correct.", "44"),
        (
            "\\[x = \\boxed{\\frac{\\sqrt{2}}{\\sqrt{3} + \\{1\\}}}\\]".replace("\\{1\\}", "1"),
            "\\frac{\\sqrt2}{\\sqrt3+1}",
        ),
        ("Therefore $y = 3$.", "3"),
        ("\\fbox{7}", "7"),
        ("The answer is 7 because it is prime.", "7"),
        ("#### \\frac{1}{2}", "0.5"),
    ],
)
def test_a_formula_is_found_where_it_stands(answer: str, reference: str) -> None:
    assert answers.is_right(answer, (reference,), "latex")


@pytest.mark.parametrize(
    ("said", "reference"), [("x^8 + x + 1", "8"), ("5x + 1", "5"), ("3 + y", "3"), ("(8, 2)", "8")]
)
def test_a_number_within_a_formula_is_not_the_answer(said: str, reference: str) -> None:
    assert not answers.is_right(f"\\boxed{{{said}}}", (reference,), "latex")
    assert not answers.is_right(f"The answer is {said}.", (reference,), "latex")


SUMS = st.recursive(
    st.integers(-50, 50).map(str) | st.sampled_from(["x", "y", "\\pi", "\\sqrt{2}"]),
    lambda part: (
        st.builds("({} {} {})".format, part, st.sampled_from(["+", "-", "\\cdot"]), part)
        | st.builds("\\frac{{{}}}{{7}}".format, part)
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(SUMS, SUMS)
def test_sums_may_be_turned_and_never_equal_what_is_one_more(one: str, other: str) -> None:
    assert latex.same(f"{one} + {other}", f"{other} + {one}")
    assert latex.same(one, f"\\left( {one} \\right)")
    assert not latex.same(f"{one} + 1", one)


def test_an_expression_that_is_none_is_called_so() -> None:
    for text in (
        "",
        "1 +",
        "\\frac{1}",
        "1/0",
        "(1",
        "1)",
        "\\unknown",
        "2^{99999}",
        "400!",
        "{" * 60 + "1" + "}" * 60,
    ):
        with pytest.raises(expressions.Unreadable):
            expressions.value(text)


def test_it_is_said_which_library_compares() -> None:
    found = library.installed()
    assert answers.mathematics_by() == ("safethink alone" if found is None else f"safethink and math-verify {found}")
