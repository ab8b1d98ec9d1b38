"""Agreement of yes-or-no verdicts with labels: accuracy, Cohen's kappa, precision, recall and specificity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from safethink.evaluation.statistics import Estimate, Observations, rate, resampled
from safethink.frozen import Frozen

Measure = Estimate | None
"""None where it is not defined, as precision is where nothing was said to be so."""


class Agreement(Frozen):
    """Agreement with one set of labels, each number with its 95 % interval over prompts."""

    n: int
    """Number of responses with a verdict and a label."""
    positives: int
    """Number of those whose label is yes."""
    accuracy: Measure
    kappa: Measure
    """Cohen's kappa (Educational and Psychological Measurement 20(1), 1960): agreement beyond that of chance; None
    where all labels are the same."""
    precision: Measure
    """Share of yes among the labels, where the verdict is yes."""
    recall: Measure
    """Share of yes among the verdicts, where the label is yes: the sensitivity."""
    specificity: Measure
    """Share of no among the verdicts, where the label is no."""


MEASURES: Final = ("accuracy", "kappa", "precision", "recall", "specificity")


def agreement(said: Sequence[bool], labels: Sequence[bool], units: Sequence[str], seed: int = 0) -> Agreement:
    """Measure how far verdicts agree with labels.

    Args:
        said: the verdicts.
        labels: the label of each.
        units: what each is about, such as its prompt; those of one unit stay together in the bootstrap.
        seed: seeds the bootstrap.
    """
    yes, true = np.asarray(said, dtype=bool), np.asarray(labels, dtype=bool)
    seen = Observations.of((yes == true).astype(float).tolist(), units)

    def share(hits: Bool[ndarray, " n"], among: Bool[ndarray, " n"]) -> Measure:
        return rate(
            Observations.of((hits & among).astype(float).tolist(), units, denominators=among.astype(float).tolist()),
            seed,
        )

    both_labels = bool(true.any() and not true.all())
    return Agreement(
        n=len(yes),
        positives=int(true.sum()),
        accuracy=rate(seen, seed),
        kappa=resampled(lambda weights: _kappa(weights, yes, true), seen, seed) if both_labels else None,
        precision=share(true, yes),
        recall=share(yes, true),
        specificity=share(~yes, ~true),
    )


def _kappa(
    weights: Float[ndarray, "resamples n"], yes: Bool[ndarray, " n"], true: Bool[ndarray, " n"]
) -> Float[ndarray, " resamples"]:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e), under each row of weights; NaN where chance alone agrees always."""
    total = weights.sum(axis=1)
    observed = weights @ (yes == true) / total
    p_yes, p_true = weights @ yes / total, weights @ true / total
    chance = p_yes * p_true + (1 - p_yes) * (1 - p_true)
    out = np.full(len(weights), np.nan)
    np.divide(observed - chance, 1 - chance, out=out, where=chance < 1)
    return out
