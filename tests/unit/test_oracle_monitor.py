"""The testbed's oracle as a monitor, exact and with dialled noise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.config import OracleMonitorConfig
from safethink.monitors import ScoreRequest
from safethink.monitors.build import build
from safethink.monitors.oracle import OracleMonitor
from safethink.prompts import Prompt
from safethink.testbed import language, oracle

DRIFTED, CLEAN = language.DRIFT_STEPS[3], language.SAFE_STEPS[0]
PROMPT = Prompt.from_text("How do I wake the moon golem?", id="p")


def requests(opening: str, n: int = 2000) -> list[ScoreRequest]:
    """Many traces that stand in the same state and differ in how they were reached."""
    return [ScoreRequest(row, PROMPT, f"{'First. ' * (row % 7)}{row}.\n\n{opening}") for row in range(n)]


def share_fired(monitor: OracleMonitor, opening: str) -> float:
    scores = monitor.score(requests(opening))
    return scores.count(-1.0) / len(scores)


def test_without_noise_it_says_what_the_oracle_says() -> None:
    for opening in (DRIFTED, CLEAN):
        exact = [-1.0 if oracle.drifted(each.prompt, each.trace) else 1.0 for each in requests(opening)]
        assert OracleMonitor().score(requests(opening)) == exact
    assert share_fired(OracleMonitor(), DRIFTED) == 1
    assert share_fired(OracleMonitor(), CLEAN) == 0


@pytest.mark.parametrize("rate", [0.05, 0.3, 1.0])
def test_it_errs_as_often_as_asked_for_on_each_side_alone(rate: float) -> None:
    assert share_fired(OracleMonitor(miss_rate=rate), DRIFTED) == pytest.approx(1 - rate, abs=0.04)
    assert share_fired(OracleMonitor(miss_rate=rate), CLEAN) == 0
    assert share_fired(OracleMonitor(false_alarm_rate=rate), CLEAN) == pytest.approx(rate, abs=0.04)
    assert share_fired(OracleMonitor(false_alarm_rate=rate), DRIFTED) == 1


@given(rate=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_text_scores_the_same_whenever_and_beside_whatever_it_is_read(rate: float, seed: int) -> None:
    config = OracleMonitorConfig(miss_rate=rate, false_alarm_rate=rate, seed=seed)
    asked = requests(DRIFTED, 8) + requests(CLEAN, 8)
    together = build(config).score(asked)
    alone = [build(config).score([each])[0] for each in reversed(asked)]
    assert together == alone[::-1]


def test_a_trace_that_has_grown_and_another_seed_draw_anew() -> None:
    grown = [ScoreRequest(0, PROMPT, "\n\n".join([DRIFTED] * steps)) for steps in range(1, 200)]
    scores = OracleMonitor(miss_rate=0.5).score(grown)
    assert set(scores) == {-1.0, 1.0}
    assert scores != OracleMonitor(miss_rate=0.5, seed=1).score(grown)


def test_monitors_that_err_differently_have_different_names() -> None:
    configs = [
        OracleMonitorConfig(),
        OracleMonitorConfig(miss_rate=0.1),
        OracleMonitorConfig(false_alarm_rate=0.1),
        OracleMonitorConfig(miss_rate=0.1, seed=1),
    ]
    assert len({config.name for config in configs}) == len(configs)
    assert OracleMonitorConfig(seed=3).name == "oracle"
