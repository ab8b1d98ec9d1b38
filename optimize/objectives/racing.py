# pyright: standard
"""Racing: all candidates are scored on a few contexts, and those that hardly can win go no further.

Most candidates of a step are much worse than its best, in every context alike, so a few contexts suffice to see it.
Heats double the contexts (Maron and Moore, "Hoeffding races", NIPS 1993, with a paired t test, as in F-Race, Birattari
et al., GECCO 2002), and of each only a share may go on (successive halving, Jamieson and Talwalkar, AISTATS 2016).
Whoever wins must beat the incumbent, too, whose costs are known in every context: what is surely worse than that is
dropped, and where all are, the race is over. A method that keeps more than one prefix asks for the best `keep` all the
same. What survives the last heat was scored on all contexts.

Terms are means over different numbers of contexts. What races is a matrix of costs (`CostMatrix`), and a column of it
holds one context of each term: those of the largest set stand in one column each, those of a smaller one in several,
among which they share their weight. So the mean over all columns is the total, and the mean over a few estimates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import t as student
from torch import Tensor

from optimize.config import RacingConfig
from optimize.objectives.protocols import ContextTerm, Ids, Term, Weighted, WholeTerm, by_length, finite

Evaluate = Callable[[Sequence[int], Sequence[int]], Float[Tensor, "candidates contexts"]]
"""Costs of some candidates in some contexts, both by their indices; finite numbers."""


@dataclass(frozen=True, slots=True)
class Race:
    """Result of a race.

    Attributes:
        estimates: what each candidate costs, averaged over contexts; estimated for those that dropped out.
        exact: whether it was scored on every context.
        num_contexts: on how many it was.
        winner: the cheapest of those that were scored on every context; None where all fell behind the incumbent.
        num_evaluations: pairs of a candidate and a context that were scored.
    """

    estimates: Float[Tensor, "candidates"]
    exact: Bool[Tensor, "candidates"]
    num_contexts: Int[Tensor, "candidates"]
    winner: int | None
    num_evaluations: int


def race(
    evaluate: Evaluate,
    num_candidates: int,
    contexts: Sequence[int],
    config: RacingConfig,
    incumbent: Float[Tensor, "contexts"] | None = None,
) -> Race:
    """Find the cheapest of some candidates without scoring all of them everywhere.

    Args:
        evaluate: scores some candidates in some contexts.
        num_candidates: how many there are.
        contexts: the order in which contexts are run; a good order begins with few that are unlike each other.
        config: how many at first, how many survive, how sure a drop is.
        incumbent: what the incumbent costs, in that order; None for none.
    """
    costs = torch.full((num_candidates, len(contexts)), torch.nan, dtype=torch.float64)
    alive, seen, num_evaluations = list(range(num_candidates)), 0, 0
    while alive and seen < len(contexts):
        heat = min(max(config.first_contexts, 2 * seen), len(contexts))
        costs[alive, seen:heat] = evaluate(alive, contexts[seen:heat]).to(costs)
        num_evaluations, seen = num_evaluations + len(alive) * (heat - seen), heat
        if seen < len(contexts):
            rows = _survivors(costs[alive, :seen], len(contexts), config, incumbent)
            alive = [alive[row] for row in rows]
    exact = torch.zeros(num_candidates, dtype=torch.bool)
    exact[alive] = True
    winner = alive[int(costs[alive].mean(1).argmin())] if alive else None
    known = incumbent if winner is None else costs[winner]
    assert known is not None, "without an incumbent somebody survives"
    return Race(_estimates(costs, known), exact, (~costs.isnan()).sum(1), winner, num_evaluations)


def _survivors(
    costs: Float[Tensor, "candidates seen"],
    num_contexts: int,
    config: RacingConfig,
    incumbent: Float[Tensor, "contexts"] | None,
) -> list[int]:
    """Rows that go on: the best `keep`, and a share at most of those that may yet beat the leader and the incumbent."""
    cheapest_first = costs.mean(1).argsort(stable=True)
    stays = _may_be_cheaper(costs, costs[cheapest_first[0]], num_contexts, config.confidence)
    stays[cheapest_first[max(1, int(config.keep_share * len(costs))) :]] = False
    if incumbent is not None:
        stays &= _may_be_cheaper(costs, incumbent[: costs.shape[1]], num_contexts, config.confidence)
    # Without an incumbent somebody has to win.
    stays[cheapest_first[: config.keep if incumbent is not None else max(1, config.keep)]] = True
    return stays.nonzero().flatten().tolist()


def _may_be_cheaper(
    costs: Float[Tensor, "candidates seen"], other: Float[Tensor, "seen"], num_contexts: int, confidence: float
) -> Bool[Tensor, "candidates"]:
    """Mask of the candidates that are not surely costlier than another one, by a paired one-sided t test.

    Contexts are drawn from a finite set of which the mean is sought, so that a difference is known the better, the more
    of them were seen: its variance shrinks by 1 - seen / num_contexts (Cochran, Sampling Techniques, section 2.6).
    """
    differences, seen = costs - other, costs.shape[1]
    variance = differences.var(1) / seen * (1 - seen / num_contexts)
    return differences.mean(1) <= student.ppf(confidence, seen - 1) * variance.sqrt()


def _estimates(
    costs: Float[Tensor, "candidates contexts"], known: Float[Tensor, "contexts"]
) -> Float[Tensor, "candidates"]:
    """Means over all contexts: of somebody known in all, plus the mean difference to it where a candidate was scored.

    Contexts differ more than candidates do, so a mean over a few of them alone would say which those were.
    """
    return known.mean() + (costs - known).nanmean(1)


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
            found = term.context_costs(batch, missing) if isinstance(term, ContextTerm) else term.costs(batch)
            costs = finite(term.name, found, [self._candidates[row] for row in rows]).view(len(rows), -1)
            seen[torch.tensor(rows)[:, None], torch.tensor(missing)] = costs.to(seen)

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
