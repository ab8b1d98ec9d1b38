"""Word problems: every formula holds, every question is asked once, a seed draws the same ones."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.reasoners.word_problems import word_problems

FORMULA = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
SIGNS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_formula_holds_and_the_last_one_is_the_result(seed: int) -> None:
    for problem in word_problems(60, seed):
        formulas = [found.groups() for step in problem.steps for found in FORMULA.finditer(step)]
        for left, sign, right, result in formulas:
            assert SIGNS[sign](int(left), int(right)) == int(result), problem
            assert sign != "/" or int(left) % int(right) == 0, problem
        assert int(formulas[-1][-1]) == problem.result >= 0, problem


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_number_of_the_solution_is_given_or_computed(seed: int) -> None:
    for problem in word_problems(60, seed):
        known = set(re.findall(r"\d+", problem.question))
        for step in problem.steps:
            for left, _, right, result in FORMULA.findall(step):
                assert {left, right} <= known, problem
                known.add(result)


def test_no_question_is_asked_twice_and_a_seed_draws_the_same() -> None:
    problems = word_problems(500, seed=3)
    assert len({problem.question for problem in problems}) == 500
    assert problems == word_problems(500, seed=3)
    assert problems != word_problems(500, seed=4)
    # More of them begin with the same ones.
    assert problems[:50] == word_problems(50, seed=3)
