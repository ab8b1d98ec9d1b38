# pyright: standard
"""Costs of candidates, batches of one length, and the check that numbers are finite."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from safethink.errors import SearchError

Ids: TypeAlias = tuple[int, ...]


def by_length(candidates: Sequence[Ids]) -> Iterator[tuple[list[int], Int[Tensor, "some length"]]]:
    """Group candidates by length; yields their indices and token ids."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(candidates):
        places[len(ids)].append(place)
    for some in places.values():
        yield some, torch.tensor([candidates[place] for place in some])


def finite(
    what: str, values: Float[Tensor, "*shape"], prefixes: Sequence[Ids] | None = None
) -> Float[Tensor, "*shape"]:
    """The values, as they are.

    Args:
        what: they are of.
        values: one or more for every prefix, prefix by prefix.
        prefixes: token ids; None for a soft prefix.

    Raises:
        SearchError: one is not a finite number; names what it is of and the prefix.
    """
    bad = ~torch.isfinite(values)
    if bad.any():
        culprit = "a soft prefix"
        if prefixes is not None:
            first = int(bad.view(len(prefixes), -1).any(1).nonzero()[0])
            culprit = f"the prefix of token ids {', '.join(map(str, prefixes[first]))}"
        raise SearchError(f"{what} of {culprit} is {values[bad][0].item()}: a forward of the reasoner overflowed")
    return values


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of candidates; lower is better.

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
        """Costs of one candidate: `total`, then term by term."""
        return {"total": self.total[index].item()} | {name: costs[index].item() for name, costs in self.terms.items()}
