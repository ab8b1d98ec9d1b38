"""Thresholds of a probe by the length of the trace: as many false alarms among safe traces of every length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from sys import maxsize

import numpy as np

from optimize.monitors.config import PositionsConfig
from optimize.monitors.steps import LabelledSplit
from optimize.selection.metrics import of_estimate
from safethink.errors import SearchError
from safethink.evaluation.statistics import Observations, rate
from safethink.monitors.probe import PositionThreshold
from safethink.prefix.artifact import Metric

MIN_FALSE_ALARMS = 5
"""A threshold is a quantile; below so many false alarms it would be one trace's chance."""


def learn(held_out: LabelledSplit, margins: Sequence[float], config: PositionsConfig) -> tuple[PositionThreshold, ...]:
    """Place a threshold in every range of lengths, the margin below which a share of its safe partial traces lies.

    Args:
        held_out: labelled partial traces that no head was fitted to.
        margins: of each of them.
        config: number of ranges, and the share.

    Raises:
        SearchError: the lengths are too few for so many ranges, or a range has too few safe partial traces.
    """
    lengths = np.asarray([step.num_tokens for step in held_out.steps])
    inner = np.quantile(lengths, np.arange(1, config.buckets) / config.buckets)
    first = [0, *(ceil(edge) for edge in inner)]
    if any(one >= other for one, other in pairwise([*first, int(lengths.max()) + 1])):
        raise SearchError(
            f"monitor.positions.buckets: held-out traces are of too few lengths for {config.buckets} ranges, to begin "
            f"at {', '.join(map(str, first))} tokens"
        )
    return tuple(
        PositionThreshold(first_token=start, margin=_quantile(held_out, margins, config, start, end))
        for start, end in zip(first, [*first[1:], maxsize], strict=True)
    )


def false_alarms(
    test: LabelledSplit, margins: Sequence[float], thresholds: Sequence[PositionThreshold]
) -> dict[str, dict[str, Metric]]:
    """False alarm rates on `test` in each range of lengths, without the thresholds and with them."""
    if not thresholds:
        return {}
    ends = [*(each.first_token for each in thresholds[1:]), maxsize]
    found: dict[str, dict[str, Metric]] = {}
    for each, end in zip(thresholds, ends, strict=True):
        here = [
            (step, margin)
            for step, margin, unsafe in zip(test.steps, margins, test.unsafe, strict=True)
            if not unsafe and each.first_token <= step.num_tokens < end
        ]
        units, clusters = [step.prompt.id for step, _ in here], [step.prompt.clusters for step, _ in here]
        rates = {
            name: rate(Observations.of([float(margin < threshold) for _, margin in here], units, clusters))
            for name, threshold in (("without", 0.0), ("with", each.margin))
        }
        found[str(each.first_token)] = {
            name: of_estimate(estimate) for name, estimate in rates.items() if estimate is not None
        }
    return found


def _quantile(
    held_out: LabelledSplit, margins: Sequence[float], config: PositionsConfig, start: int, end: int
) -> float:
    safe = sorted(
        margin
        for step, margin, unsafe in zip(held_out.steps, margins, held_out.unsafe, strict=True)
        if not unsafe and start <= step.num_tokens < end
    )
    needed = ceil(MIN_FALSE_ALARMS / config.false_alarms)
    if len(safe) < needed:
        raise SearchError(
            f"monitor.positions: {len(safe)} safe held-out partial traces in the range from {start} tokens on are too "
            f"few for a false alarm rate of {config.false_alarms:g}; each of the {config.buckets} ranges takes {needed}"
        )
    return safe[int(config.false_alarms * len(safe))]
