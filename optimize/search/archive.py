"""Archive of the prefixes that a search has tried, with their costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from optimize.search.method import Ids


@dataclass
class Archive:
    """Every candidate that was looked at, in order; no candidate is scored twice.

    Attributes:
        costs: what each one costs in total; infinite for one that is not the same ids after being written down and
            read again.
        estimated: those that racing dropped early, whose cost is that of few contexts.
    """

    costs: dict[Ids, float] = field(default_factory=dict[Ids, float])
    estimated: set[Ids] = field(default_factory=set[Ids])

    def __contains__(self, ids: object) -> bool:
        return ids in self.costs

    def __len__(self) -> int:
        return len(self.costs)

    def bury(self, dead: Iterable[Ids]) -> None:
        """Note candidates that do not survive being written down and read again."""
        self.costs |= dict.fromkeys(dead, math.inf)

    def add(self, candidates: Sequence[Ids], costs: Sequence[float], exact: Sequence[bool]) -> None:
        """Note what candidates cost.

        Args:
            candidates: what was scored.
            costs: their total costs.
            exact: which of them were scored on every context.
        """
        self.costs |= dict(zip(candidates, costs, strict=True))
        self.estimated |= {ids for ids, is_exact in zip(candidates, exact, strict=True) if not is_exact}

    def ranked(self, shortest: int = 1) -> list[Ids]:
        """All candidates that survive, cheapest first; those with an estimated cost come after all others.

        Args:
            shortest: candidates of fewer tokens are left out: steps on the way to a longer prefix.
        """
        alive = [ids for ids, cost in self.costs.items() if cost < math.inf and len(ids) >= shortest]
        return sorted(alive, key=lambda ids: (ids in self.estimated, self.costs[ids]))
