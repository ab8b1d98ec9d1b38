"""McNemar's exact test on paired prompts, against the definition."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.config import EvalConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.evaluation.compare import mcnemar
from safethink.evaluation.plan import paired_config
from safethink.evaluation.statistics import Observations


def seen(values: list[bool] | list[float], units: list[str] | None = None) -> Observations:
    return Observations.of([float(each) for each in values], units or [f"p{n}" for n in range(len(values))])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_it_is_the_tail_of_a_fair_coin(pairs: list[tuple[bool, bool]]) -> None:
    found = mcnemar(seen([a for a, _ in pairs]), seen([b for _, b in pairs]))
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(comb(n, k) for k in range(fewer + 1)) / 2**n
    assert found is not None
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))


def test_only_prompts_that_differ_count() -> None:
    a, b = [True] * 10 + [False] * 100, [False] * 10 + [False] * 100
    found = mcnemar(seen(a), seen(b))
    assert found is not None
    assert found.p_value == pytest.approx(2 * 0.5**10)
    assert found == mcnemar(seen(a[:10]), seen(b[:10]))


def test_what_is_no_yes_or_no_once_per_prompt_is_not_tested() -> None:
    assert mcnemar(seen([0.5, 1.0]), seen([0.0, 1.0])) is None
    twice = ["p", "p"]
    assert mcnemar(seen([True, False], twice), seen([False, False], twice)) is None
    shares = Observations(np.ones(1), np.full(1, 2.0), ("p",), ({},))
    assert mcnemar(shares, shares) is None


def test_the_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="the same units"):
        mcnemar(seen([True], ["p"]), seen([True], ["q"]))


def test_both_sides_run_under_the_defense_of_the_row_on_trial() -> None:
    config = yaml_config.load(EvalConfig, shipped_config("eval/testbed"))
    trial = config.on_trial
    assert trial is not None
    eager = trial.replace(defense=trial.defense.replace(max_steered_steps=2))
    rows = tuple(eager if row == trial else row for row in config.rows)
    paired = paired_config("text:x", "text:y", config.replace(rows=rows))
    assert [(row.name, row.prefix, row.defense) for row in paired.rows] == [
        ("a", None, eager.defense),
        ("b", "text:y", eager.defense),
    ]
    assert (paired.prefix, paired.depth_curve) == ("text:x", ())
    assert EvalConfig.model_validate(paired.model_dump()) == paired
    assert paired_config("text:x", "text:y", config.replace(rows=rows[:1])).on_trial is not None
