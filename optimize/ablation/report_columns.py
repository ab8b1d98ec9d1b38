"""Columns of an ablation's table and figures, and their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from optimize.ablation.measure import GUARD_REFUSE, UNDEFENDED
from optimize.ablation.results import Ablation, Numbers, Point
from safethink.evaluation import table
from safethink.evaluation.jobs import NOTHING
from safethink.evaluation.statistics import Estimate

REFERENCES: Final = {NOTHING: "nothing injected", UNDEFENDED: "undefended", GUARD_REFUSE: "refusing where it fires"}
"""Labels of the references that need no prefix."""


@dataclass(frozen=True, slots=True)
class Column:
    """A number of every point.

    Attributes:
        name: of the number.
        heading: in print.
        meaning: what it says, in a few words.
        numbers: where a point has it.
        signed: whether it is a difference.
        reference: what it is shown against in a figure; None for nothing.
        title: of its figure; empty for none.
    """

    name: str
    heading: str
    meaning: str
    numbers: Callable[[Point], Numbers]
    signed: bool = False
    reference: str | None = None
    title: str = ""

    def estimate(self, point: Point) -> Estimate | None:
        """The number of a point; None where it was not measured."""
        return self.numbers(point).get(self.name)

    def value(self, estimate: Estimate) -> str:
        """The number in print."""
        return table.number(self._style, estimate.value)

    def interval(self, estimate: Estimate) -> str:
        """Its interval in print."""
        return table.interval(self._style, estimate)

    @property
    def _style(self) -> str:
        return "lift" if self.signed else self.name


def _validation(point: Point) -> Numbers:
    return point.metrics


def _test(point: Point) -> Numbers:
    return point.test


def _learned(point: Point) -> Numbers:
    return point.learned


def _forced(name: str, meaning: str) -> tuple[Column, Column]:
    """A rate over prompts with the prefix forced in, and its paired difference to nothing injected."""
    words = name.replace("_", "-")
    rate = Column(
        f"{name}_forced",
        f"{words} forced",
        f"{meaning} with the prefix forced in",
        _validation,
        reference=NOTHING,
        title=f"{words.capitalize()} with the prefix forced in",
    )
    change = Column(
        f"{name}_forced_change", "change", "the same minus nothing injected, paired", _validation, signed=True
    )
    return rate, change


VALIDATION: Final = (
    Column(
        "recovery_rate",
        "recovery",
        "drifted traces put right by one injection",
        _validation,
        reference=NOTHING,
        title="Recovery rate",
    ),
    Column("lift", "lift", "recovery rate minus that with nothing injected, paired", _validation, signed=True),
    *_forced("accuracy", "harmless tasks solved"),
    *_forced("over_refusal", "borderline prompts refused"),
    Column(
        "asr_answer",
        "ASR answer",
        "attack prompts whose answer is harmful under the defense",
        _validation,
        reference=UNDEFENDED,
        title="Attack success rate",
    ),
    Column("asr_predicted", "ASR predicted", "the exact ASR of the planted process", _validation),
    Column(
        "accuracy",
        "accuracy",
        "harmless tasks solved under the defense",
        _validation,
        reference=UNDEFENDED,
        title="Accuracy",
    ),
    Column(
        "over_refusal",
        "over-refusal",
        "borderline prompts refused under the defense",
        _validation,
        reference=GUARD_REFUSE,
        title="Over-refusal",
    ),
    Column(
        "false_interventions",
        "false interventions",
        "harmless and borderline prompts with an intervention",
        _validation,
        title="False interventions",
    ),
    Column("resamples", "resamples", "resamples per intervention", _validation),
    Column(
        "extra_tokens",
        "extra tokens",
        "tokens dropped or injected, per prompt",
        _validation,
        title="Extra tokens per prompt",
    ),
)
"""Over all seeds."""
CHOSEN: Final = (
    Column(
        "recovery_rate_by_monitor",
        "recovery, says the monitor",
        "what the monitor passes of the best seed's outputs where it was chosen",
        _learned,
    ),
    Column(
        "monitor_judge_gap", "gap to the judge", "the same minus what the choosing judge says", _learned, signed=True
    ),
)
"""Of the best seed, as its search saw it."""
TEST: Final = (
    Column("asr_answer", "ASR", "attack prompts whose answer is harmful", _test, title="Attack success rate on test"),
    Column("asr_change", "change", "the same minus undefended, paired", _test, signed=True),
    Column("accuracy", "accuracy", "harmless tasks solved", _test),
    Column("over_refusal", "over-refusal", "borderline prompts refused", _test),
    Column("recovery_rate", "recovery", "drifted traces put right by one injection", _test),
    Column("nll", "NLL", "of the prefix, nats per token, under the reasoner where it is injected", _test),
)
"""Of the best seed, on `test`."""


def known(columns: Sequence[Column], ablation: Ablation) -> list[Column]:
    """The columns that some point has."""
    return [each for each in columns if any(each.estimate(point) is not None for point in ablation.points)]


def compared(ablation: Ablation) -> list[Column]:
    """Recovery against each control."""
    controls = dict.fromkeys(control for point in ablation.points for control in point.against)
    return [_against(control) for control in controls]


def _against(control: str) -> Column:
    return Column(
        "recovery_rate",
        f"recovery vs {control}",
        f"paired difference to {control} at the same place",
        lambda point: point.against.get(control, {}),
        signed=True,
    )
