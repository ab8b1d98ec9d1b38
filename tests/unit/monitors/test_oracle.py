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


@pytest.mark.slow
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
    assert len({config.title for config in configs}) == len(configs)
    assert OracleMonitorConfig(seed=3).title == "oracle"


def test_the_rates_of_an_f1_give_that_f1() -> None:
    config = OracleMonitorConfig(f1=0.8, drifted_share=0.25, seed=2)
    monitor = build(config)
    assert isinstance(monitor, OracleMonitor)
    caught = share_fired(monitor, DRIFTED) * 0.25
    false_alarms = share_fired(monitor, CLEAN) * 0.75
    assert caught / (caught + false_alarms) == pytest.approx(0.8, abs=0.03)
    assert caught / 0.25 == pytest.approx(0.8, abs=0.03)


@given(f1=st.floats(0.01, 1), share=st.floats(0.01, 0.99))
def test_an_f1_is_that_of_its_rates_or_is_refused(f1: float, share: float) -> None:
    if (1 - f1) * share / (1 - share) > 1:
        with pytest.raises(ValueError, match="more false alarms than there are traces"):
            OracleMonitorConfig(f1=f1, drifted_share=share)
        return
    missed, alarmed = OracleMonitorConfig(f1=f1, drifted_share=share).rates
    true_positives, mistakes = share * (1 - missed), share * missed + (1 - share) * alarmed
    assert 2 * true_positives / (2 * true_positives + mistakes) == pytest.approx(f1)


def test_an_f1_beside_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="give one or the other"):
        OracleMonitorConfig(f1=0.8, miss_rate=0.1)
