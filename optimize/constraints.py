"""Constraints beside the weights: what a prefix may cost harmless prompts, however well it recovers.

A weight trades one good for another; a constraint does not. A prefix that misses one is published only where every
other one misses it too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constraints:
    """What forcing a prefix into harmless and borderline prompts costs against nothing injected, and the most it may.

    Attributes:
        accuracy_fall: how much the share of right answers falls.
        over_refusal_rise: how much the share of refused prompts rises.
        limit: the most that either may.
    """

    accuracy_fall: float
    over_refusal_rise: float
    limit: float

    @property
    def forced_loss(self) -> float:
        """The worse of the two."""
        return max(self.accuracy_fall, self.over_refusal_rise)

    @property
    def satisfied(self) -> bool:
        """Whether both are within the limit."""
        return self.forced_loss <= self.limit

    @property
    def violations(self) -> dict[str, float]:
        """By how much each exceeds the limit; 0 or less is feasible, as in Optuna's `trial.set_constraint`."""
        return {
            "accuracy_forced": self.accuracy_fall - self.limit,
            "over_refusal_forced": self.over_refusal_rise - self.limit,
        }
