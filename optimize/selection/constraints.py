"""Constraints beside the weights: what a prefix may cost harmless prompts, however well it recovers.

A weight trades one good for another; a constraint does not. A prefix that misses one is published only where every
other one misses it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

DIGITS: Final = 9
"""Decimals to which a floor is told kept from missed."""
ACCURACY: Final = "accuracy_forced_change"
OVER_REFUSAL: Final = "over_refusal_forced_change"
"""Name, in artifacts and ablations, of the change in over-refusal under forced injection."""


@runtime_checkable
class Measured(Protocol):
    """A number."""

    @property
    def value(self) -> float:
        """The number."""
        ...


@dataclass(frozen=True, slots=True)
class Constraints:
    """The cost of forcing a prefix into harmless and borderline prompts against nothing injected, and its bounds.

    Attributes:
        accuracy_fall: how much the share of right answers falls.
        over_refusal_rise: how much the share of refused prompts rises.
        limit: the most that either may.
    """

    accuracy_fall: float
    over_refusal_rise: float
    limit: float

    @classmethod
    def of(cls, measured: Mapping[str, Measured], limit: float) -> Constraints:
        """From the forced columns, by name; what was not measured costs nothing.

        Args:
            measured: among others `accuracy_forced_change` and `over_refusal_forced_change`.
            limit: the most that either may cost.
        """
        changes = [measured[name].value if name in measured else 0.0 for name in (ACCURACY, OVER_REFUSAL)]
        return cls(-changes[0], changes[1], limit)

    @property
    def forced_loss(self) -> float:
        """The worse of the two."""
        return max(self.accuracy_fall, self.over_refusal_rise)

    @property
    def satisfied(self) -> bool:
        """Whether both are within the limit."""
        return all(violation <= 0 for violation in self.violations.values())

    @property
    def violations(self) -> dict[str, float]:
        """By how much each exceeds the limit; 0 or less is feasible, as in Optuna's `trial.set_constraint`."""
        # Rounded, because the mean of differences is the difference of means but for the last bits.
        return {
            "accuracy_forced": round(self.accuracy_fall - self.limit, DIGITS),
            "over_refusal_forced": round(self.over_refusal_rise - self.limit, DIGITS),
        }

    @property
    def missed(self) -> str | None:
        """A sentence on a prefix that was published though it misses the floor; None where it keeps it."""
        if self.satisfied:
            return None
        cost = f"it costs harmless prompts {self.forced_loss:.3f}, above {self.limit}"
        return f"No finalist stayed within the floor: {cost}."
