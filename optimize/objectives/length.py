# pyright: standard
"""The number of tokens: a short prefix disturbs less, costs less, and is easier to trust."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.objectives.term import Meter


class Length:
    """How many tokens, or soft rows, a prefix has; tells candidates apart where a method lets the length move."""

    name = "length"
    meters: tuple[Meter, ...] = ()

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Float[Tensor, "candidates"]:
        """The same for all of one length."""
        return torch.full((len(candidates),), float(candidates.shape[1]))

    def gradient(self, prefix: Int[Tensor, "length"]) -> None:
        """None: a substitution leaves the length as it is."""

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """The number of rows."""
        return rows.new_tensor(float(len(rows)))
