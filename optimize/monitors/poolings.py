# pyright: standard
"""Poolings over the tokens of a trace: a head for each, and traces to choose on that no head was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from jaxtyping import Float
from torch import Tensor

from optimize.monitors.config import ProbeTrainingConfig
from optimize.monitors.head import Bags, Head, States, fit, fit_lowest
from optimize.monitors.steps import LabelledSplit
from optimize.monitors.traces import TokenTraces
from safethink.errors import SearchError
from safethink.monitors.pooling import Pooling
from safethink.seeds import stable_seed

Part = Literal["search", "validation", "held_out", "test"]
"""Heads are fitted on the first and stopped on the second; the third chooses among them, the fourth reports."""
FITTED: Final[tuple[Part, ...]] = ("search", "validation")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pooling with the head that was trained for it.

    Attributes:
        pooling: the rule.
        layer: whose states the head reads.
        head: its margins are pooled.
        margins: pooled margins of the partial traces of those parts that no head was fitted to.
    """

    pooling: Pooling
    layer: int
    head: Head
    margins: Mapping[Part, Float[Tensor, " steps"]]


def poolings_of(training: ProbeTrainingConfig) -> list[Pooling]:
    """The poolings that a training tries, in its order."""
    return [
        pooling
        for kind in dict.fromkeys(training.poolings)
        for pooling in (
            [Pooling(kind=kind, decay=decay) for decay in training.decays] if kind == "ema" else [Pooling(kind=kind)]
        )
    ]


def chooses(training: ProbeTrainingConfig) -> bool:
    """Whether anything is chosen or learned on held-out traces."""
    return len(poolings_of(training)) > 1 or training.positions is not None


def in_halves(validation: LabelledSplit) -> tuple[LabelledSplit, LabelledSplit]:
    """The validation traces that end the training, and those that are held out: every prompt is on one side.

    Raises:
        SearchError: all partial traces of a half have the same label.
    """
    held = [stable_seed("held-out traces of a probe", trace[0].prompt.id) % 2 == 1 for trace in validation.traces]
    pairs = list(zip(validation.traces, held, strict=True))
    halves = [
        replace(validation, traces=tuple(trace for trace, is_held in pairs if is_held is side))
        for side in (False, True)
    ]
    for half, what in zip(halves, ("first", "held-out"), strict=True):
        if len(set(half.unsafe)) < 2:
            raise SearchError(
                f"monitor: half of validation is held out to choose on, and its {what} half has only one kind of label"
            )
    return halves[0], halves[1]


def fit_at_tokens(
    pooling: Pooling,
    layer: int,
    traces: Mapping[Part, TokenTraces],
    safe: Mapping[Part, Float[Tensor, " steps"]],
    training: ProbeTrainingConfig,
    seed: int,
    folder: Path,
) -> Candidate:
    """Train the head of a pooling on all tokens of the traces: on its pooled margins, as they will count.

    Args:
        pooling: the rule.
        layer: whose states the traces hold.
        traces: every part's.
        safe: the targets of `search` and `validation`.
        training: rates.
        seed: orders the batches.
        folder: Lightning's own; nothing is written there.
    """
    what = f"training a probe that pools by {pooling.title}"
    others: list[Part] = [part for part in traces if part not in FITTED]
    if pooling.kind == "max":
        bags = [Bags(traces[part], safe[part]) for part in FITTED]
        head = fit_lowest(bags[0], bags[1], training, seed, folder, what)
        return Candidate(pooling, layer, head, {part: traces[part].lowest(head.weight, head.bias) for part in others})
    states = [States(traces[part].pooled(pooling), safe[part]) for part in FITTED]
    head = fit(states[0], states[1], training, seed, folder, what)
    return Candidate(pooling, layer, head, {part: margins(head, traces[part].pooled(pooling)) for part in others})


def margins(head: Head, states: Float[Tensor, "steps hidden"]) -> Float[Tensor, " steps"]:
    """The margins of states that are pooled already, in double precision."""
    return states.double() @ head.weight + head.bias
