# pyright: standard
"""What candidates cost column by column, so that they can race.

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
    """The costs of some candidates, scored where they are asked for.

    A term that is no mean over contexts stands in every column alike.

    Args:
        terms: what is summed.
        candidates: prefixes, as token ids.

    Attributes:
        num_columns: as many as the largest set has contexts.
    """

    def __init__(self, terms: Sequence[Weighted], candidates: Sequence[Ids]) -> None:
        self._terms, self._candidates = terms, candidates
        self.num_columns = max(_num_contexts(each.term) for each in terms)
        self._seen = {
            each.term.name: torch.full((len(candidates), _num_contexts(each.term)), torch.nan, dtype=torch.float64)
            for each in terms
        }

    def __call__(self, candidates: Sequence[int], columns: Sequence[int]) -> Float[Tensor, "candidates columns"]:
        """What some candidates cost in some columns, both by their indices.

        Nothing is scored twice, except that all columns at once are scored anew, in one batch.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        anew = len(columns) == self.num_columns
        for places, batch in by_length([self._candidates[index] for index in candidates]):
            rows = [candidates[place] for place in places]
            # All terms of a batch before the next one, so that those over the same contexts forward once.
            for each in self._terms:
                self._score(each.term, rows, batch, columns, anew)
        return torch.stack([each.weight * self._spread(each.term, candidates, columns) for each in self._terms]).sum(0)

    def terms(self) -> dict[str, Float[Tensor, "candidates"]]:
        """Every term, averaged over the contexts that a candidate was scored in."""
        return {name: seen.nanmean(1) for name, seen in self._seen.items()}

    def _score(
        self,
        term: WholeTerm | ContextTerm,
        rows: Sequence[int],
        batch: Int[Tensor, "rows length"],
        columns: Sequence[int],
        anew: bool,
    ) -> None:
        seen = self._seen[term.name]
        wanted = sorted({column % seen.shape[1] for column in columns})
        # Whoever is asked about together has come equally far.
        missing = [context for context in wanted if anew or seen[rows[0], context].isnan()]
        if missing:
            found = term.context_costs(batch, missing) if isinstance(term, ContextTerm) else term.costs(batch)[:, None]
            prefixes = [self._candidates[row] for row in rows]
            seen[torch.tensor(rows)[:, None], torch.tensor(missing)] = finite(term.name, found.cpu(), prefixes).to(seen)

    def _spread(
        self, term: Term, candidates: Sequence[int], columns: Sequence[int]
    ) -> Float[Tensor, "candidates columns"]:
        """A term in the columns, each context with its share of the weight."""
        seen = self._seen[term.name]
        contexts = torch.arange(self.num_columns) % seen.shape[1]
        shares = self.num_columns / (seen.shape[1] * contexts.bincount()[contexts])
        return (seen[list(candidates)][:, contexts] * shares)[:, list(columns)]


def _num_contexts(term: Term) -> int:
    return term.num_contexts if isinstance(term, ContextTerm) else 1
