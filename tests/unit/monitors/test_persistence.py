"""Scores in a row: which ones count after a rollback, and when a monitor may fire."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from safethink.config import (
    CascadeMonitorConfig,
    ConstantMonitorConfig,
    GuardMonitorConfig,
    KeywordMonitorConfig,
    MinMonitorConfig,
    MonitorConfig,
)
from safethink.config.run import ReasonerConfig, RunConfig
from safethink.monitors import ScoreRequest, fail_closed
from safethink.monitors.build import build
from safethink.monitors.combinations import MinMonitor
from safethink.monitors.function import ConstantMonitor
from safethink.monitors.persistence import PersistentMonitor
from safethink.prompts import Prompt

PROMPT = Prompt.from_text("hello")


class LastWord:
    """Scores a trace by its last word, a number."""

    def __init__(self) -> None:
        self.released: list[int] = []

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return [float(request.trace.split()[-1]) for request in requests]

    def release(self, row: int) -> None:
        self.released.append(row)


def scores(monitor: PersistentMonitor, *traces: str, row: int = 0) -> list[float]:
    return [monitor.score([ScoreRequest(row, PROMPT, trace)])[0] for trace in traces]


def test_it_fires_where_and_only_where_so_many_scores_in_a_row_are_low() -> None:
    steps = ["-.5 ", "-.7 ", ".2 ", "-.1 ", "-.2 ", "-.3 "]
    traces = ["".join(steps[: end + 1]) for end in range(len(steps))]
    assert scores(PersistentMonitor(LastWord(), 2), *traces) == [1.0, -0.5, 0.2, 0.2, -0.1, -0.2]
    assert scores(PersistentMonitor(LastWord(), 3), *traces) == [1.0, 1.0, 0.2, 0.2, 0.2, -0.1]
    assert scores(PersistentMonitor(LastWord(), 1), *traces) == [-0.5, -0.7, 0.2, -0.1, -0.2, -0.3]


def test_steps_that_are_drawn_anew_leave_no_score_behind() -> None:
    monitor = PersistentMonitor(LastWord(), 2)
    # The second step is tried three times; each try is judged behind the first step alone.
    assert scores(monitor, "-.5 ", "-.5 -.9 ", "-.5 -.8 ", "-.5 .3 ") == [1.0, -0.5, -0.5, 0.3]
    # The third try is kept, and its score is the one that counts from then on.
    assert scores(monitor, "-.5 .3 -.6 ") == [0.3]


def test_after_a_rollback_of_several_steps_those_that_are_left_count() -> None:
    monitor = PersistentMonitor(LastWord(), 3)
    scores(monitor, "-.1 ", "-.1 -.2 ", "-.1 -.2 -.3 ", "-.1 -.2 -.3 -.4 ")
    assert scores(monitor, "-.1 -.2 -.9 ") == [-0.1]
    assert scores(monitor, "-.7 ") == [1.0]
    assert scores(monitor, "-.7 -.8 ", "-.7 -.8 -.9 ") == [1.0, -0.7]


class Low:
    """Fires at once."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return [-0.9] * len(requests)

    def release(self, row: int) -> None:
        pass


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (["a.\n\n", "a.\n\nb. \n\n\n", "a.\n\nb.\n\nI", "a.\n\nb.\n\nI see"], [1.0, 1.0, -0.9, -0.9]),
        (["a ", "a \ufffd", "a \N{CHECK MARK}", "a \N{CHECK MARK} b"], [1.0, 1.0, -0.9, -0.9]),
        (["a ", "a \ufffd\ufffd", "a \ufffd\ufffd"], [1.0, 1.0, 1.0]),
        (["Yes.\n\n", "Yes. And", "Yes. And so"], [1.0, 1.0, 1.0]),
    ],
    ids=["the answer follows other blanks", "half a character", "half a character, asked twice", "drawn anew"],
)
def test_a_text_that_is_spelled_otherwise_at_its_seam_goes_on(steps: list[str], expected: list[float]) -> None:
    assert scores(PersistentMonitor(Low(), 3), *steps) == expected


def test_the_same_trace_asked_again_counts_once() -> None:
    assert scores(PersistentMonitor(LastWord(), 2), "-.5 ", "-.5 ", "-.5 -.4 ", "-.5 -.4 ") == [1.0, 1.0, -0.4, -0.4]


def test_rows_have_scores_of_their_own_until_they_are_released() -> None:
    member = LastWord()
    monitor = PersistentMonitor(member, 2)
    scores(monitor, "-.5 ")
    assert scores(monitor, "-.5 -.6 ", row=1) == [1.0]
    assert scores(monitor, "-.5 -.6 ") == [-0.5]
    monitor.release(0)
    assert member.released == [0]
    assert scores(monitor, "-.5 -.6 -.7 ") == [1.0]


def test_a_finished_text_is_scored_without_scores_before_it() -> None:
    monitor = MinMonitor([ConstantMonitor(0.5), PersistentMonitor(LastWord(), 3)])
    assert fail_closed.score_texts(monitor, [(PROMPT, "-.5 ")]) == [-0.5]
    assert monitor.score([ScoreRequest(0, PROMPT, "-.5 ")]) == [0.5]


def test_any_monitor_is_made_persistent_by_its_configuration() -> None:
    built = build(MinMonitorConfig(members=(KeywordMonitorConfig(), ConstantMonitorConfig()), persistence=2))
    assert isinstance(built, PersistentMonitor)
    assert scores(built, "a", "a b") == [1.0, -1.0]


@pytest.mark.parametrize("wrap", [lambda member: member, lambda member: MinMonitorConfig(members=(member,))])
def test_a_cascade_is_persistent_and_not_its_members(
    wrap: Callable[[KeywordMonitorConfig], MonitorConfig],
) -> None:
    member = wrap(KeywordMonitorConfig(persistence=2))
    with pytest.raises(ValueError, match=r"`persistence` on a member of a cascade .* put it on the cascade"):
        CascadeMonitorConfig(members=(ConstantMonitorConfig(), member))
    CascadeMonitorConfig(members=(ConstantMonitorConfig(), KeywordMonitorConfig()), persistence=2)


@pytest.mark.parametrize(
    "monitor", [GuardMonitorConfig(), ConstantMonitorConfig(), MinMonitorConfig(members=(GuardMonitorConfig(),))]
)
def test_keys_that_came_later_are_written_down_where_they_say_something(monitor: GuardMonitorConfig) -> None:
    run = RunConfig(reasoner=ReasonerConfig(path="testbed"), monitor=monitor)
    assert "persistence" not in str(run.model_dump())
    assert "categories" not in str(run.model_dump(mode="json"))
    persistent = RunConfig(reasoner=ReasonerConfig(path="testbed"), monitor=monitor.replace(persistence=3))
    assert persistent.model_dump()["monitor"]["persistence"] == 3
    assert RunConfig.model_validate(persistent.model_dump()) == persistent
