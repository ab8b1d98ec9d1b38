"""Several monitors as one: the lowest, the mean, the cheap before the expensive."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from safethink.config import CascadeMonitorConfig, ConstantMonitorConfig, MeanMonitorConfig, MinMonitorConfig
from safethink.errors import ConfigError, MonitorError
from safethink.monitors import Monitor, ScoreRequest, StateMonitor, fingerprint_of, layer_read_by
from safethink.monitors.build import as_monitor, build
from safethink.monitors.combinations import CascadeMonitor, MeanMonitor, MinMonitor
from safethink.monitors.function import ConstantMonitor
from safethink.prompts import Prompt


class Listening:
    """Scores each trace with the number it spells, and remembers what it was asked."""

    def __init__(self, shift: float = 0.0) -> None:
        self.asked: list[str] = []
        self.released: list[int] = []
        self._shift = shift

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        self.asked += [request.trace for request in requests]
        return [float(request.trace) + self._shift for request in requests]

    def release(self, row: int) -> None:
        self.released.append(row)


class Probing(Listening):
    """Reads hidden states of one layer."""

    def __init__(self, layer: int, weights: str) -> None:
        super().__init__()
        self.layer, self.fingerprint = layer, weights


def requests(*scores: float) -> list[ScoreRequest]:
    return [ScoreRequest(row, Prompt.from_text("x"), str(score)) for row, score in enumerate(scores)]


def test_the_lowest_and_the_mean() -> None:
    members = (Listening(), Listening(0.5), ConstantMonitor(0.25))
    assert MinMonitor(members).score(requests(-0.5, 0.5)) == [-0.5, 0.25]
    assert MeanMonitor(members).score(requests(-0.5, 0.5)) == pytest.approx([-0.25 / 3, 1.75 / 3])


def test_a_cascade_asks_the_expensive_one_about_what_the_cheap_one_is_unsure_of() -> None:
    cheap, expensive = Listening(), Listening(-0.1)
    cascade = CascadeMonitor((cheap, expensive), low=-0.5, high=0.25)
    assert cascade.score(requests(-0.75, -0.5, 0.0, 0.25, 0.5)) == pytest.approx([-0.75, -0.6, -0.1, 0.15, 0.5])
    assert cheap.asked == ["-0.75", "-0.5", "0.0", "0.25", "0.5"]
    assert expensive.asked == ["-0.5", "0.0", "0.25"]


def test_a_cascade_that_is_sure_asks_nobody_else() -> None:
    expensive = Listening()
    assert CascadeMonitor((ConstantMonitor(1.0), expensive)).score(requests(0.0)) == [1.0]
    assert expensive.asked == []


def test_every_member_forgets_a_row() -> None:
    members = (Listening(), Listening())
    MinMonitor((members[0], MeanMonitor(members[1:]))).release(7)
    assert [member.released for member in members] == [[7], [7]]


@pytest.mark.parametrize("combined", [MinMonitor, MeanMonitor, CascadeMonitor])
def test_a_nan_of_any_member_stops_the_run(combined: type[MinMonitor | MeanMonitor | CascadeMonitor]) -> None:
    monitor = combined((ConstantMonitor(0.0), ConstantMonitor(math.nan)))
    with pytest.raises(MonitorError, match="'prompt' nan"):
        monitor.score(requests(0.0))


def test_a_combination_reads_the_layer_that_its_member_reads() -> None:
    nested = MinMonitor((ConstantMonitor(), MeanMonitor((Probing(3, "a"),))))
    assert isinstance(nested, StateMonitor)
    assert layer_read_by(nested) == 3
    assert layer_read_by(MinMonitor((ConstantMonitor(),))) is None
    with pytest.raises(ConfigError, match=r"different layers \(2 and 3\)"):
        MinMonitor((nested, Probing(2, "b")))


def test_a_combination_is_known_by_its_members_weights() -> None:
    one, other = (MinMonitor((ConstantMonitor(), Probing(3, weights))) for weights in "ab")
    assert fingerprint_of(one) != fingerprint_of(other)
    assert fingerprint_of(MinMonitor((ConstantMonitor(),))) is None


def test_sections_nest() -> None:
    section = MinMonitorConfig(
        members=(
            CascadeMonitorConfig(members=(ConstantMonitorConfig(value=0.1), ConstantMonitorConfig(value=-0.3)), low=0),
            MeanMonitorConfig(members=(ConstantMonitorConfig(value=-0.2), ConstantMonitorConfig(value=-0.6))),
        )
    )
    built: Monitor = build(section)
    assert built.score(requests(0.0)) == pytest.approx([-0.4])
    assert as_monitor(section).score(requests(0.0)) == pytest.approx([-0.4])
    assert section.title == "min of cascade of constant, constant, mean of constant, constant"


def test_empty_combinations_and_empty_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="needs members"):
        MinMonitorConfig(members=())
    with pytest.raises(ConfigError, match="needs members"):
        MinMonitor(())
    with pytest.raises(ValueError, match=r"low 0.5 is above high 0.25"):
        CascadeMonitorConfig(members=(ConstantMonitorConfig(),), low=0.5, high=0.25)
