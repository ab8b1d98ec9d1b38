# pyright: standard
"""From a soft prefix to a hard one, and what is lost on the way.

The tokens nearest to trained rows are often far from what the rows do, and any text can be the nearest (arXiv
2112.08348). So PEZ sets out from the rows, and the cheapest projection it passes is the hard prefix. What it costs more
than the rows did is the discretisation gap, to be reported with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.config import RelaxedConfig
from optimize.search.archive import Archive
from optimize.search.driver import search
from optimize.search.journal import Journal
from optimize.search.method import Alphabet, Ids
from optimize.search.relaxed import Embeddings, Relaxable, Relaxed


@dataclass(frozen=True, slots=True)
class Hardened:
    """A hard prefix in the place of a soft one.

    Attributes:
        ids: the cheapest projection that is the same ids after being written down and read again.
        cost: what it costs.
        soft_cost: what the rows cost.
        nearest: the tokens nearest to the rows, with which the search began.
        nearest_cost: what they cost; infinite where they are not the same ids after being written down and read again.
        archive: every projection that was tried.
    """

    ids: Ids
    cost: float
    soft_cost: float
    nearest: Ids
    nearest_cost: float
    archive: Archive

    @property
    def gap(self) -> float:
        """The discretisation gap: what the tokens cost more than the rows."""
        return self.cost - self.soft_cost


def harden(
    rows: Float[Tensor, "length hidden"],
    objective: Relaxable,
    vocabulary: Alphabet,
    embeddings: Embeddings,
    config: RelaxedConfig,
    journal: Journal,
    seed: int,
) -> Hardened:
    """Find a hard prefix where a soft one is; a run that was killed goes on to the same result.

    Args:
        rows: the soft prefix, in the space that the reasoner's layers read.
        objective: what rows and tokens cost. Terms that tell tokens apart, such as readability, are no part of what
            rows cost, and so of the gap.
        vocabulary: what prefixes are made of.
        embeddings: what the rows are projected to.
        config: how often, how fast, how patient; `length` is the number of rows.
        journal: keeps every step.
        seed: of the driver; PEZ draws nothing where its start is given.

    Raises:
        SafeThinkError: no projection is the same ids after being written down and read again.
    """
    assert len(rows) == config.length, "rows and search.length differ"
    with torch.no_grad():
        soft_cost = objective.soft_loss(rows).item()
    method = Relaxed(config, objective, vocabulary, (), journal.archive, embeddings, rows)
    archive = search(objective, vocabulary, method, config, journal, seed)
    best, nearest = archive.ranked()[0], embeddings.nearest(rows)
    return Hardened(best, archive.costs[best], soft_cost, nearest, archive.costs[nearest], archive)
