"""Budgets as they are written: times and tokens are read, read back, and anything else is refused in one line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.cli import PROGRAM
from optimize.config.budget import Budget, TimeBudget, TokenBudget, in_words, parse_budget
from safethink.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", TimeBudget(90)),
        ("20m", TimeBudget(1200)),
        ("1h30m", TimeBudget(5400)),
        ("2h", TimeBudget(7200)),
        ("1h5s", TimeBudget(3605)),
        ("200000", TokenBudget(200_000)),
        ("200k", TokenBudget(200_000)),
    ],
)
def test_times_and_tokens(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


BAD = ("", "0", "0k", "0m", "m", "k", "20M", "20 m", "1.5h", "30m1h", "20m20m", "-5", "-5m", "1d", "1e3", "٣m")


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_refused_and_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget: .* is no budget; write a time such as 90s, 20m or 1h30m"):
        parse_budget(text)


@given(st.integers(min_value=1, max_value=10**7))
def test_a_time_and_a_number_of_tokens_are_read_back(number: int) -> None:
    for budget in (TimeBudget(number), TokenBudget(number)):
        assert parse_budget(str(budget)) == budget


@given(st.integers(0, 99), st.integers(0, 999), st.integers(0, 9999))
def test_units_add_up_and_one_that_is_not_written_is_none(hours: int, minutes: int, seconds: int) -> None:
    total = hours * 3600 + minutes * 60 + seconds
    whole = f"{hours}h{minutes}m{seconds}s"
    without_zeros = "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (seconds, "s")) if n)
    for text in (whole, without_zeros):
        if total:
            assert parse_budget(text) == TimeBudget(total)
        else:
            with pytest.raises(ConfigError):
                parse_budget(text)


@given(st.text(alphabet="0123456789hmsk .-", max_size=8))
def test_what_is_read_is_read_back(text: str) -> None:
    with suppress(ConfigError):
        budget = parse_budget(text)
        assert parse_budget(str(budget)) == budget


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (45, "45 s"), (1200, "20 min"), (5400, "1 h 30 min"), (3605, "1 h 5 s")]
)
def test_times_in_words(seconds: int, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize("text", ["20M", "0", "-5"])
def test_a_bad_budget_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert PROGRAM.main(["search", "testbed-gcg", "--budget", text]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"--budget: {text!r} is no budget" in captured.err
