"""A score is a float in [-1, 1]: whatever else a monitor of anybody's says stops the run, with words that help."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safethink.errors import MonitorError
from safethink.monitors import ScoreRequest, fail_closed
from safethink.monitors.combinations import MinMonitor
from safethink.monitors.function import FunctionMonitor
from safethink.monitors.persistence import PersistentMonitor
from safethink.prompts import Prompt

PROMPT = Prompt.from_text("Add 3 and 4.", id="task")
REQUEST = ScoreRequest(0, PROMPT, "Hmm")


class Says:
    """A monitor as another package may bring it."""

    def __init__(self, value: object) -> None:
        self._value: Any = value

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return [self._value] * len(requests)

    def release(self, row: int) -> None:
        pass


def monitors(value: Any) -> list[Any]:
    """The value as a callable, a monitor, a member of others."""
    own = FunctionMonitor(lambda prompt, trace: value)
    return [own, Says(value), MinMonitor([Says(value)]), PersistentMonitor(Says(value), 2)]


def refusal(monitor: Any) -> str:
    with pytest.raises(MonitorError) as caught:
        fail_closed.score(monitor, [REQUEST])
    return str(caught.value)


@pytest.mark.parametrize(
    "value",
    [True, False, np.bool_(True), np.bool_(False), torch.tensor(True), np.array([False]), torch.tensor([[True]])],
)
def test_a_verdict_is_refused_with_the_sentence_that_says_how_to_score(value: Any) -> None:
    for monitor in monitors(value):
        message = refusal(monitor)
        assert message.startswith(f"the monitor scored prompt 'task' {value!r}, a verdict and no score: return a float")
        assert "-1.0 for a trace to be steered" in message


@pytest.mark.parametrize("value", [0, np.int64(0), np.uint8(0), torch.tensor(0), torch.tensor([0])])
def test_an_integer_0_is_taken_for_a_verdict(value: Any) -> None:
    for monitor in monitors(value):
        assert "as a verdict of 0 or 1 would be: return a float" in refusal(monitor)
        assert "where you mean 0, return 0.0" in refusal(monitor)


@pytest.mark.parametrize(
    "value",
    [None, "0.5", "safe", b"1", [], [0.5], {"score": 0.5}, 1j, np.complex128(0.5), object(), np.ones(2), torch.ones(2)],
)
def test_what_is_no_number_is_refused(value: Any) -> None:
    for monitor in monitors(value):
        assert re.search(r"which is not in \[-1, 1\]: return a float", refusal(monitor))


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 1.0000001, -2, 7, 10**400, np.float32(1.5), torch.tensor(-3.0)]
)
def test_what_is_no_number_in_range_is_refused(value: Any) -> None:
    for monitor in monitors(value):
        assert "which is not in [-1, 1]" in refusal(monitor)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0.0, 0.0),
        (-1, -1.0),
        (1, 1.0),
        (np.float32(0.5), 0.5),
        (np.float64(-0.25), -0.25),
        (np.array(0.5), 0.5),
        (np.array([0.5]), 0.5),
        (torch.tensor(-0.5, dtype=torch.bfloat16), -0.5),
        (torch.tensor([0.25], requires_grad=True), 0.25),
        (np.int8(-1), -1.0),
        (Fraction(1, 4), 0.25),
        (Decimal("-0.5"), -0.5),
    ],
)
def test_real_numbers_of_any_library_are_scores(value: Any, number: float) -> None:
    for monitor in (FunctionMonitor(lambda prompt, trace: value), Says(value)):
        (score,) = fail_closed.score(monitor, [REQUEST])
        assert type(score) is float
        assert score == number


@given(st.one_of(st.floats(), st.integers(), st.booleans(), st.text(), st.none(), st.complex_numbers()))
def test_only_a_number_in_range_is_ever_a_score(value: Any) -> None:
    is_score = isinstance(value, float | int) and not isinstance(value, bool) and -1 <= value <= 1
    is_score = is_score and (isinstance(value, float) or value != 0)
    try:
        assert fail_closed.score(Says(value), [REQUEST]) == [float(value)]
    except MonitorError:
        assert not is_score
    else:
        assert is_score
