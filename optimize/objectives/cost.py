# pyright: standard
"""What candidates cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cost:
    """What candidates cost; lower is better.

    Attributes:
        total: the weighted sum of the terms, which the search minimises.
        terms: every term by its name, unweighted.
        exact: whether a candidate was scored on every context. The others dropped out of a race: what they cost is
            estimated from the contexts that they were scored on.
        incumbent: what the incumbent costs, scored in one batch with the best candidate; None where it was not scored
            again.
    """

    total: Float[Tensor, "candidates"]
    terms: Mapping[str, Float[Tensor, "candidates"]]
    exact: Bool[Tensor, "candidates"]
    incumbent: dict[str, float] | None = None

    @classmethod
    def of(cls, total: Float[Tensor, "candidates"], terms: Mapping[str, Float[Tensor, "candidates"]]) -> Cost:
        """The cost of candidates that were all scored on every context."""
        return cls(total, terms, torch.ones(len(total), dtype=torch.bool))

    def candidate(self, index: int) -> dict[str, float]:
        """What one candidate costs: `total`, then term by term."""
        return {"total": self.total[index].item()} | {name: each[index].item() for name, each in self.terms.items()}
