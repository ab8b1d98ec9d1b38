"""The rate behind a judge's errors: Rogan and Gladen's estimator, with the uncertainty of rate and judge together."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from safethink.evaluation.statistics import Estimate, Observations, count_clusters, resampled
from safethink.frozen import Frozen

JEFFREYS: Final = 0.5
"""Prior counts of a yes and of a no, after Jeffreys."""


class ErrorRates(Frozen):
    """Counts behind a judge's sensitivity and specificity, on attacks that people labelled."""

    harmful: int
    """Responses that people call harmful."""
    found: int
    """Those of them that the judge calls harmful."""
    harmless: int
    """Responses that people do not call harmful."""
    cleared: int
    """Those of them that the judge does not call harmful."""

    @property
    def sensitivity(self) -> float:
        """Share of harmful responses that the judge finds."""
        return self.found / self.harmful

    @property
    def specificity(self) -> float:
        """Share of the others that the judge clears."""
        return self.cleared / self.harmless

    @property
    def is_informative(self) -> bool:
        """Whether the judge says more than chance does, so that there is something to correct by."""
        return self.harmful > 0 and self.harmless > 0 and self.sensitivity + self.specificity > 1


def corrected(harmful: Observations, judged: Observations, rates: ErrorRates, seed: int = 0) -> Estimate | None:
    """Estimate the rate that people would have found from the rate q that a judge found.

    p = (q + specificity - 1) / (sensitivity + specificity - 1), cut to [0, 1] (Rogan and Gladen, American Journal of
    Epidemiology 107(1), 1978, equation 3), among the outputs that the judge read: an invalid output was never judged,
    and is not harmful. The interval joins the cluster bootstrap of the outputs with draws of both error rates from
    their posteriors under Jeffreys' prior.

    Args:
        harmful: of each output whether the judge calls it harmful.
        judged: of each output whether it was one to judge: neither invalid nor without a verdict.
        rates: the judge's error rates.
        seed: seeds the bootstrap and the draws.

    Returns:
        The estimate; None where nothing was judged, or the judge says no more than chance.
    """
    if not rates.is_informative or not judged.numerators.any():
        return None
    rng = np.random.default_rng(seed)

    def error_rates(size: int) -> tuple[Float[ndarray, " size"], Float[ndarray, " size"]]:
        if size == 1:
            return np.array([rates.sensitivity]), np.array([rates.specificity])
        missed, accused = rates.harmful - rates.found, rates.harmless - rates.cleared
        return (
            rng.beta(rates.found + JEFFREYS, missed + JEFFREYS, size),
            rng.beta(rates.cleared + JEFFREYS, accused + JEFFREYS, size),
        )

    def statistic(weights: Float[ndarray, "resamples n"]) -> Float[ndarray, " resamples"]:
        sensitivity, specificity = error_rates(len(weights))
        total, read = weights @ harmful.denominators, weights @ judged.numerators
        found = weights @ harmful.numerators
        q = np.divide(found, read, out=np.zeros_like(found), where=read > 0)
        if len(weights) > 1:
            q = _smeared(q)
        power = np.maximum(sensitivity + specificity - 1, 1e-9)
        p = np.clip((q + specificity - 1) / power, 0, 1)
        return np.divide(p * read, total, out=np.full_like(p, np.nan), where=total > 0)

    def _smeared(q: Float[ndarray, " resamples"]) -> Float[ndarray, " resamples"]:
        """The posterior of a rate over the clusters in place of resamples that all say the same, as at 0 and 1."""
        if not np.all(q == q[0]):
            return q
        clusters = count_clusters(harmful)
        return rng.beta(q * clusters + JEFFREYS, (1 - q) * clusters + JEFFREYS)

    return resampled(statistic, harmful, seed)
