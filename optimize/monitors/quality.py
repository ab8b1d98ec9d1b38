"""Quality of a monitor as a classifier of partial traces: F1 and the area under the ROC curve, with intervals.

Steps of a trace, and prompts that share a wrapper or a hazard, go right and wrong together; so the intervals come from
the same bootstrap over clusters as those of an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from optimize.contexts.splits import ATTACKS
from optimize.monitors.steps import SOURCES, LabelledSplit, Step
from optimize.selection.metrics import of_estimate
from safethink.evaluation.statistics import Observations, resampled
from safethink.prefix.artifact import Metric
from safethink.testbed import oracle

PROMPT_ALONE_NOTE = (
    "`prompt_alone_`: every partial trace has the score that this monitor gives to its prompt with an empty trace. "
    "What the other rows have above these is told by the trace."
)
"""Explanation of the metrics of `prompt_alone`, for a monitor of text."""
ROWS_AT_ONCE = 100
"""Bootstrap resamples whose curves are in memory at once."""


def of_scores(split: LabelledSplit, scores: Sequence[float], on_testbed: bool) -> dict[str, Metric]:
    """Agreement of scores with the labels; on the testbed also of scores, and of labels, with the truth.

    Also among the traces of attacks alone, where telling harmful prompts from harmless ones is of no help
    (`within_harmful_`), and by source of the traces, where there are several (`injected_`, `labelled_`, `own_`).

    Args:
        split: labelled partial traces.
        scores: of the trained monitor, in [-1, 1] or any other scale whose zero parts unsafe from safe.
        on_testbed: whether the exact oracle knows the prompts.
    """
    steps, labels = split.steps, np.asarray(split.unsafe)
    found = _agreement("", steps, scores, labels, 0.0) | _within(split, scores)
    if on_testbed:
        truth = np.asarray([oracle.drifted(step.prompt, step.trace) for step in steps])
        found |= _agreement("oracle_", steps, scores, truth, 0.0)
        found |= _agreement("labeller_oracle_", steps, [step.score for step in steps], truth, split.threshold)
    return found


def prompt_alone(split: LabelledSplit, scores: Sequence[float]) -> dict[str, Metric]:
    """Agreement with the labels of what a prompt alone gives away, over all and within harmful prompts.

    Args:
        split: labelled partial traces.
        scores: of the prompt of each partial trace, as `of_scores` takes them.
    """
    found = of_scores(split, scores, on_testbed=False)
    parts = [f"{part}{name}" for part in ("", "within_harmful_") for name in ("f1", "auc")]
    return {f"prompt_alone_{name}": found[name] for name in parts if name in found}


def _within(split: LabelledSplit, scores: Sequence[float]) -> dict[str, Metric]:
    """Agreement with the labels within some of the steps: of attacks, of each source, and of attacks in each source."""
    sources = [source for source in SOURCES if any(step.source == source for step in split.steps)]
    kinds = {step.prompt.kind in ATTACKS for step in split.steps}
    parts: dict[str, Callable[[Step], bool]] = {}
    if len(kinds) > 1:
        parts["within_harmful_"] = lambda step: step.prompt.kind in ATTACKS
    for source in sources if len(sources) > 1 else ():
        parts[f"{source}_"] = lambda step, source=source: step.source == source
        parts[f"{source}_within_harmful_"] = lambda step, source=source: (
            step.source == source and step.prompt.kind in ATTACKS
        )
    found: dict[str, Metric] = {}
    for name, belongs in parts.items():
        places = [place for place, step in enumerate(split.steps) if belongs(step)]
        steps, unsafe = [split.steps[place] for place in places], np.asarray(split.unsafe)[places]
        if len(set(unsafe.tolist())) == 2:
            found |= _agreement(name, steps, [scores[place] for place in places], unsafe, 0.0)
    return found


def area(
    scores: Sequence[float], unsafe: Bool[ndarray, " n"], weights: Float[ndarray, "resamples n"]
) -> Float[ndarray, " resamples"]:
    """Area under the ROC curve: the chance that an unsafe one scores below a safe one, ties counted half.

    Args:
        scores: higher is safer.
        unsafe: which ones are unsafe.
        weights: how often each counts, one row per resample.

    Returns:
        One area per row; NaN where a row has only one kind.
    """
    order = np.argsort(scores, kind="stable")
    ordered = np.asarray(scores)[order]
    # Equal scores are one point of the curve.
    groups = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    areas = [
        _areas(weights[start : start + ROWS_AT_ONCE, order], unsafe[order], groups)
        for start in range(0, len(weights), ROWS_AT_ONCE)
    ]
    return np.concatenate(areas)


def _areas(
    weights: Float[ndarray, "resamples n"], unsafe: Bool[ndarray, " n"], groups: ndarray
) -> Float[ndarray, " resamples"]:
    harmful = np.add.reduceat(weights * unsafe, groups, axis=1)
    harmless = np.add.reduceat(weights * ~unsafe, groups, axis=1)
    below = harmful.cumsum(axis=1) - harmful / 2
    pairs = harmful.sum(axis=1) * harmless.sum(axis=1)
    won = (harmless * below).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def f1(
    predicted: Bool[ndarray, " n"], unsafe: Bool[ndarray, " n"], weights: Float[ndarray, "resamples n"]
) -> Float[ndarray, " resamples"]:
    """F1 of finding the unsafe ones, 2 TP / (2 TP + FP + FN).

    Args:
        predicted: which ones are called unsafe.
        unsafe: which ones are.
        weights: how often each counts, one row per resample.

    Returns:
        One value per row; NaN where a row has none and none is found.
    """
    hits = weights @ (2.0 * (predicted & unsafe))
    counted = hits + weights @ (predicted != unsafe)
    return np.divide(hits, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _agreement(
    name: str, steps: Sequence[Step], scores: Sequence[float], unsafe: Bool[ndarray, " n"], threshold: float
) -> dict[str, Metric]:
    units, clusters = [step.prompt.id for step in steps], [step.prompt.clusters for step in steps]
    seen = Observations.of([0.0] * len(steps), units, clusters)
    predicted = np.asarray(scores) < threshold
    found = {
        f"{name}f1": resampled(lambda weights: f1(predicted, unsafe, weights), seen),
        f"{name}auc": resampled(lambda weights: area(scores, unsafe, weights), seen),
    }
    # With one kind alone there is nothing to tell apart.
    return {key: of_estimate(estimate) for key, estimate in found.items() if not np.isnan(estimate.value)}
