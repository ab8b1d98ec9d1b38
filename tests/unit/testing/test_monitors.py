"""Our monitors keep what the suite asks of every monitor, and each check finds the fault it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import pytest
import torch

from safethink.monitors import ScoreRequest
from safethink.monitors.combinations import CascadeMonitor, MeanMonitor, MinMonitor
from safethink.monitors.function import ConstantMonitor, FunctionMonitor
from safethink.monitors.guards.generative import GuardMonitor
from safethink.monitors.keyword import KeywordMonitor
from safethink.monitors.oracle import OracleMonitor
from safethink.monitors.pooling import Pooling
from safethink.monitors.probe import PositionThreshold, Probe, ProbeCard, ProbeMonitor
from safethink.prefix.artifact import Identity
from safethink.testbed.prompts import draw
from safethink.testing import monitors
from safethink.testing.check import Check
from tests.support import tiny_guard

LAST = Pooling()


def lengths() -> FunctionMonitor:
    return FunctionMonitor(lambda prompt, trace: (len(prompt) % 7) / 10 - (len(trace) % 11) / 20)


def words() -> KeywordMonitor:
    return KeywordMonitor(("mix", "heat"), -0.5, 0.5)


def probe(pooling: Pooling = LAST, thresholds: tuple[PositionThreshold, ...] = ()) -> ProbeMonitor:
    tiny = Identity(name="tiny", sha256="0" * 64)
    card = ProbeCard(layer=1, hidden_size=8, reasoner=tiny, labelled_by=tiny, pooling=pooling, thresholds=thresholds)
    return ProbeMonitor(Probe(card, torch.linspace(-1, 1, 8, dtype=torch.float64), torch.tensor(0.25).double()))


THRESHOLDS = (PositionThreshold(first_token=0, margin=0.5), PositionThreshold(first_token=9, margin=-0.5))
OF_THE_TESTBED = (draw("jailbreak", "test", 1)[0], draw("harmless", "test", 1)[0])
OURS = {
    "function": monitors.checks(lengths),
    "constant": monitors.checks(ConstantMonitor),
    "keyword": monitors.checks(words),
    "min": monitors.checks(lambda: MinMonitor([lengths(), words()])),
    "mean": monitors.checks(lambda: MeanMonitor([lengths(), words()])),
    "cascade": monitors.checks(lambda: CascadeMonitor([lengths(), words()], -0.2, 0.2)),
    "oracle": monitors.checks(OracleMonitor, OF_THE_TESTBED),
    "probe": monitors.checks(probe),
    "probe, mean": monitors.checks(lambda: probe(Pooling(kind="mean"))),
    "probe, max": monitors.checks(lambda: probe(Pooling(kind="max"))),
    "probe, ema": monitors.checks(lambda: probe(Pooling(kind="ema", decay=0.8))),
    "probe, thresholds": monitors.checks(lambda: probe(thresholds=THRESHOLDS)),
    "min of probes": monitors.checks(lambda: MinMonitor([probe(), probe(Pooling(kind="max")), lengths()])),
    "cascade of probes": monitors.checks(lambda: CascadeMonitor([probe(), probe(Pooling(kind="mean"))], -0.9, 0.2)),
    "guard": monitors.checks(lambda: GuardMonitor(tiny_guard.model(), tiny_guard.tokenizer())),
}
NAMED = [(f"{name}: {check}", check) for name, checks in OURS.items() for check in checks]


@pytest.mark.parametrize("check", [check for _, check in NAMED], ids=[name for name, _ in NAMED])
def test_ours_keeps(check: Check) -> None:
    check()


class Sound:
    """Goes by the text alone; each subclass breaks one thing."""

    def score(self, requests: Sequence[ScoreRequest]) -> Any:
        return [self.one(request) for request in requests]

    def one(self, request: ScoreRequest) -> float:
        return (len(request.prompt.text) % 5) / 10 - (len(request.trace) % 11) / 20

    def release(self, row: int) -> None: ...


class NoRelease:
    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return [0.0 for _ in requests]


class OnlyTheLast(Sound):
    def score(self, requests: Sequence[ScoreRequest]) -> Any:
        return super().score(requests)[-1:]


class Percent(Sound):
    def one(self, request: ScoreRequest) -> float:
        return 100 * super().one(request)


class NothingOfNothing(Sound):
    """Has no score for an empty trace."""

    def one(self, request: ScoreRequest) -> float:
        return super().one(request) if request.trace else float("nan")


class Sorted(Sound):
    """Sorts by length, for speed, and forgets to sort back."""

    def score(self, requests: Sequence[ScoreRequest]) -> Any:
        return super().score(sorted(requests, key=lambda request: len(request.trace)))


class Relative(Sound):
    """Compares with the mean of its batch."""

    def score(self, requests: Sequence[ScoreRequest]) -> Any:
        scores = super().score(requests)
        return [(score - sum(scores) / len(scores)) / 2 for score in scores]


class Averaging(Sound):
    """Smooths over the calls of a row; a released row is forgotten."""

    def __init__(self) -> None:
        self.last: dict[int, float] = {}

    def one(self, request: ScoreRequest) -> float:
        score = super().one(request)
        self.last[request.row] = (score + self.last.get(request.row, score)) / 2
        return self.last[request.row]

    def release(self, row: int) -> None:
        self.last.pop(row, None)


class NeverBack(Sound):
    """Keeps the longest text that it has read of a row."""

    def __init__(self) -> None:
        self.longest: dict[int, str] = {}

    def one(self, request: ScoreRequest) -> float:
        kept = max(self.longest.get(request.row, ""), request.trace, key=len)
        self.longest[request.row] = kept
        return super().one(ScoreRequest(request.row, request.prompt, kept))

    def release(self, row: int) -> None:
        self.longest.pop(row, None)


class NeverForgets(Sound):
    """Keeps a row's prompt."""

    def __init__(self) -> None:
        self.prompts: dict[int, Any] = {}

    def one(self, request: ScoreRequest) -> float:
        prompt = self.prompts.setdefault(request.row, request.prompt)
        return super().one(ScoreRequest(request.row, prompt, request.trace))


class OneCache(Sound):
    """Keeps the last prompt for all rows, as long as no row begins anew."""

    def __init__(self) -> None:
        self.prompt: Any = None

    def one(self, request: ScoreRequest) -> float:
        self.prompt = self.prompt if request.trace and self.prompt else request.prompt
        return super().one(ScoreRequest(request.row, self.prompt, request.trace))


class Moody(Sound):
    def __init__(self) -> None:
        self.calls = count()

    def one(self, request: ScoreRequest) -> float:
        return next(self.calls) % 3 / 10


BROKEN: list[tuple[Callable[[], Any], Callable[..., None]]] = [
    (NoRelease, monitors.has_the_members_of_a_monitor),
    (OnlyTheLast, monitors.gives_one_score_in_range_per_request),
    (Percent, monitors.gives_one_score_in_range_per_request),
    (NothingOfNothing, monitors.gives_one_score_in_range_per_request),
    (Sorted, monitors.keeps_the_order),
    (Relative, monitors.scores_a_row_alike_whatever_is_beside_it),
    (Averaging, monitors.scores_a_growing_trace_as_if_read_at_once),
    (Moody, monitors.scores_a_growing_trace_as_if_read_at_once),
    (NeverBack, monitors.is_rolled_back_for_nothing),
    (NeverForgets, monitors.forgets_what_is_released),
    (OneCache, monitors.tells_rows_of_two_prompts_apart),
]


@pytest.mark.parametrize(("make", "broken"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_a_check_finds_its_fault(make: Callable[[], Any], broken: Callable[..., None]) -> None:
    check = next(each for each in monitors.checks(make) if each.name == broken.__name__)
    with pytest.raises(AssertionError):
        check()


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {broken.__name__ for _, broken in BROKEN} == {check.name for check in monitors.checks(Sound)}


def test_a_sound_one_passes_them_all() -> None:
    for check in monitors.checks(Sound):
        check()
