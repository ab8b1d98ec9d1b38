# pyright: standard
"""Cost matrix of candidates by columns of contexts, filled where a race asks.

Terms are means over different numbers of contexts. A column holds one context of each of them: those of the largest set
stand in one column each, those of a smaller one in several, among which they share their weight. So the mean over all
columns is the total, and the mean over a few estimates it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.objectives.batches import Ids, by_length, finite
from optimize.objectives.protocols import ContextTerm, Term, Weighted, WholeTerm


class CostMatrix:
    """Matrix of candidates by columns, scored where it is asked for.

    A term that is no mean over contexts stands in every column alike.

    Args:
        terms: what is summed.
        candidates: prefixes, as token ids.

    Attributes:
        num_columns: as many as the largest set has contexts.
    """

    def __init__(self, terms: Sequence[Weighted], candidates: Sequence[Ids]) -> None:
        self._terms, self._candidates = terms, candidates
        self.num_columns = max(_num_contexts(weighted.term) for weighted in terms)
        self._seen = {
            term.name: torch.full((len(candidates), _num_contexts(term)), torch.nan, dtype=torch.float64)
            for term in (weighted.term for weighted in terms)
        }

    def __call__(self, candidates: Sequence[int], columns: Sequence[int]) -> Float[Tensor, "candidates columns"]:
        """Costs of some candidates in some columns, both by their indices.

        Nothing is scored twice, except that all columns at once are scored anew, in one batch.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        rescore_all = len(columns) == self.num_columns
        for places, batch in by_length([self._candidates[index] for index in candidates]):
            rows = [candidates[place] for place in places]
            # All terms of a batch before the next one, so that those over the same contexts forward once.
            for weighted in self._terms:
                self._score(weighted.term, rows, batch, columns, rescore_all)
        parts = [weighted.weight * self._spread(weighted.term, candidates, columns) for weighted in self._terms]
        return torch.stack(parts).sum(0)

    def terms(self) -> dict[str, Float[Tensor, "candidates"]]:
        """Every term, averaged over the contexts that a candidate was scored in."""
        return {name: seen.nanmean(1) for name, seen in self._seen.items()}

    def _score(
        self,
        term: WholeTerm | ContextTerm,
        rows: Sequence[int],
        batch: Int[Tensor, "rows length"],
        columns: Sequence[int],
        rescore_all: bool,
    ) -> None:
        seen = self._seen[term.name]
        wanted = sorted({column % seen.shape[1] for column in columns})
        # Whoever is asked about together has come equally far.
        missing = [context for context in wanted if rescore_all or seen[rows[0], context].isnan()]
        if missing:
            found = term.context_costs(batch, missing) if isinstance(term, ContextTerm) else term.costs(batch)[:, None]
            prefixes = [self._candidates[row] for row in rows]
            seen[torch.tensor(rows)[:, None], torch.tensor(missing)] = finite(term.name, found.cpu(), prefixes).to(seen)

    def _spread(
        self, term: Term, candidates: Sequence[int], columns: Sequence[int]
    ) -> Float[Tensor, "candidates columns"]:
        """Costs of a term by column, scaled so that their mean over columns is the mean over contexts.

        With C columns and n <= C contexts, column j holds context c(j) = j mod n, which stands in m(c) columns:

            spread[:, j] = costs[:, c(j)] * C / (n m(c(j))),    so    1/C sum_j spread[:, j] = 1/n sum_c costs[:, c]
        """
        seen = self._seen[term.name]
        contexts = torch.arange(self.num_columns) % seen.shape[1]
        multiplicity = contexts.bincount()[contexts]
        shares = self.num_columns / (seen.shape[1] * multiplicity)
        return (seen[list(candidates)][:, contexts] * shares)[:, list(columns)]


def _num_contexts(term: Term) -> int:
    return term.num_contexts if isinstance(term, ContextTerm) else 1
