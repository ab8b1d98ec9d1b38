# pyright: standard
"""The best single tokens, concatenated: the control that a search over words that work together must beat.

Half of the budget goes to single tokens, each scored as a prefix of its own; the other half to sets of them, those
first whose tokens cost least in sum. The tokens of a set stand in one order, the best one first: which order works, and
which words help or spoil each other, is what a search has to find out.

Of a large vocabulary a budget pays for few tokens. There the gradient at the best single token so far, at a random one
to begin with, ranks those that were not scored yet by what they promise to first order.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from optimize.config import UnigramConfig
from optimize.search.method import Alphabet, Archive, Ids, Schedule, Scored, Searchable

SHARE_OF_SINGLES = 0.5
"""Share of the budget that single tokens get."""
SETS_PER_CANDIDATE = 4
"""Sets proposed for each one that is to be scored: many do not survive being written down and read again."""


class Unigram:
    """Scores single tokens, then sets of the best.

    Args:
        config: how long, how many.
        objective: says what was spent, and ranks tokens by its gradient.
        vocabulary: what prefixes are made of.
        archive: what was tried so far.
    """

    def __init__(self, config: UnigramConfig, objective: Searchable, vocabulary: Alphabet, archive: Archive) -> None:
        self._config, self._objective, self._archive = config, objective, archive
        self._allowed = np.array(vocabulary.allowed)
        self._schedule = Schedule(config, objective)

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Single tokens; once half of the budget is spent, sets of the best of them."""
        tried = [ids[0] for ids in self._archive.costs if len(ids) == 1]
        untried = torch.from_numpy(self._allowed[~np.isin(self._allowed, tried)])
        if self._config.length == 1:
            return self._ordered(untried, generator)
        ranked = [ids for ids in self._archive.ranked() if len(ids) == 1]
        if len(untried) and (self._schedule.share < SHARE_OF_SINGLES or len(ranked) < self._config.length):
            return self._ordered(untried, generator)
        sets = best_sets([self._archive.costs[ids] for ids in ranked], self._config.length)
        prefixes = (tuple(ranked[index][0] for index in chosen) for chosen in sets)
        fresh = (ids for ids in prefixes if ids not in self._archive)
        return list(islice(fresh, SETS_PER_CANDIDATE * self._config.candidates)) or self._ordered(untried, generator)

    def _ordered(self, tokens: Int[Tensor, " untried"], generator: torch.Generator) -> list[Ids]:
        """Single tokens in the order in which they are to be scored."""
        if self._config.ranked_by == "chance" or not len(tokens):
            return _singles(_shuffled(tokens, generator))
        scored = [ids for ids in self._archive.ranked() if len(ids) == 1]
        best = torch.tensor(scored[0]) if scored else _shuffled(tokens, generator)[:1]
        change = self._objective.coordinate_gradient(best, tokens)[0]
        return _singles(tokens[change.argsort(stable=True)])

    def observe(self, scored: Sequence[Scored]) -> None:
        """The archive keeps what tokens cost; only the budget is counted."""
        self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Steps and tokens spent."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._schedule.load_state_dict(state)


def best_sets(costs: Sequence[float], size: int) -> Iterator[tuple[int, ...]]:
    """All sets of `size` items, as ascending indices; those first whose costs are least in sum.

    A set's successors have one of its items replaced by the next more expensive one, and cost no less; so the cheapest
    of all successors of what was given out comes next.

    Args:
        costs: of the items, in ascending order.
        size: of a set.
    """
    first = tuple(range(size))
    if size > len(costs):
        return
    heap, seen = [(math.fsum(costs[:size]), first)], {first}
    while heap:
        _, chosen = heapq.heappop(heap)
        yield chosen
        for place, item in enumerate(chosen):
            after = chosen[place + 1] if place + 1 < size else len(costs)
            successor = (*chosen[:place], item + 1, *chosen[place + 1 :])
            if item + 1 < after and successor not in seen:
                seen.add(successor)
                heapq.heappush(heap, (math.fsum(costs[index] for index in successor), successor))


def _shuffled(tokens: Int[Tensor, " untried"], generator: torch.Generator) -> Int[Tensor, " untried"]:
    return tokens[torch.randperm(len(tokens), generator=generator)]


def _singles(tokens: Int[Tensor, " untried"]) -> list[Ids]:
    """Each token as a prefix of its own."""
    return list(zip(tokens.tolist(), strict=True))
