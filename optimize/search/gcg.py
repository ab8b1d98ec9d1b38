"""Greedy coordinate gradient (GCG, arXiv 2307.15043) over many contexts at once, for short prefixes.

One step:
    1. the gradient of the cost says, for every place and token, what putting it there would change to first order;
       it is smoothed over steps (momentum, arXiv 2405.01229);
    2. the most promising substitutes of every place that were never tried make up the edits of this step;
    3. the driver drops edits that do not survive being written down and read again, and scores what is left exactly;
    4. the incumbent stays unless something beats it.

A short prefix has few neighbours, and sampling them with replacement, as GCG does, mostly draws the same ones again.
Here nothing is scored twice: tried edits make room for the next best, so a neighbourhood that holds no improvement is
worked through rather than resampled, and one that is small is searched exhaustively. A start that no longer improves is
left for another one, from random tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from optimize.config import GcgConfig
from optimize.search import starts
from optimize.search.archive import Archive
from optimize.search.method import Alphabet, Ids, Scored, Searchable


class Gcg:
    """Edits the incumbent where the gradient promises most.

    Args:
        config: how wide, how patient.
        objective: gives the gradients.
        vocabulary: what prefixes are made of.
        start: what the first start begins with; filled up to the length.
        archive: what was tried so far.
    """

    def __init__(
        self, config: GcgConfig, objective: Searchable, vocabulary: Alphabet, start: Ids, archive: Archive
    ) -> None:
        self._config, self._objective, self._vocabulary = config, objective, vocabulary
        self._start, self._archive = start, archive
        self._allowed = torch.tensor(vocabulary.allowed)
        self._restart = self._stale = 0
        self._incumbent: Ids = ()
        self._cost = math.inf
        self._momentum = torch.empty(0)

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Edits of the incumbent; where there is none, or it is exhausted, another start."""
        if self._stale > self._config.patience:
            self._leave()
        if self._incumbent:
            gradient = self._objective.coordinate_gradient(torch.tensor(self._incumbent), self._allowed)
            self._momentum = _smooth(self._momentum, gradient, self._config.momentum)
            if edits := self._edits(generator):
                return edits
            self._leave()
        kept = self._start if self._restart == 0 else ()
        drawn = starts.draw(self._allowed, self._config.length, starts.MAX_DRAWS, generator, kept)
        return starts.first_survivor(drawn, self._vocabulary, self._archive)

    def observe(self, scored: Sequence[Scored]) -> None:
        """Move to the cheapest, where it beats the incumbent."""
        self._stale += 1
        best = min(scored, key=lambda each: each.cost, default=None)
        if best is not None and best.cost < self._cost:
            self._incumbent, self._cost, self._stale = best.ids, best.cost, 0

    def state_dict(self) -> dict[str, Any]:
        """The start, the incumbent and the momentum."""
        return {
            "restart": self._restart,
            "stale": self._stale,
            "incumbent": self._incumbent,
            "cost": self._cost,
            "momentum": self._momentum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._restart, self._stale, self._momentum = state["restart"], state["stale"], state["momentum"]
        self._incumbent, self._cost = tuple(state["incumbent"]), state["cost"]

    def _leave(self) -> None:
        """Leave this start for another one."""
        self._restart, self._stale = self._restart + 1, 0
        self._incumbent, self._cost, self._momentum = (), math.inf, torch.empty(0)

    def _edits(self, generator: torch.Generator) -> list[Ids]:
        """Edits of the incumbent that were never tried, in random order.

        The `top_k` most promising untried substitutes of every place, one at a time, and a share of pairs of them:
        word order and word pairs matter, and no single edit crosses a barrier between two of them.
        """
        promise = self._momentum.masked_fill(self._tried(), float("inf"))
        values, columns = promise.topk(min(self._config.top_k, len(self._allowed)), largest=False)
        places, ranks = (values < float("inf")).nonzero(as_tuple=True)
        edits = list(zip(places.tolist(), self._allowed[columns[places, ranks]].tolist(), strict=True))
        num_pairs = round(len(edits) * self._config.pair_share / (1 - self._config.pair_share))
        draws = torch.randint(max(1, len(edits)), (num_pairs, 2), generator=generator).tolist() if edits else []
        pairs = [(edits[a], edits[b]) for a, b in draws if edits[a][0] != edits[b][0]]
        changes = [(edit,) for edit in edits] + pairs
        shuffled = (changes[index] for index in torch.randperm(len(changes), generator=generator).tolist())
        edited = dict.fromkeys(_edited(self._incumbent, change) for change in shuffled)
        return [ids for ids in edited if ids not in self._archive]

    def _tried(self) -> Bool[Tensor, "length allowed"]:
        """Which single edits of the incumbent were tried, the one that changes nothing among them."""
        tried = torch.tensor([ids for ids in self._archive.costs if len(ids) == len(self._incumbent)])
        changed = tried != torch.tensor(self._incumbent)
        neighbours = [tried[changed.sum(1) == changed[:, place], place] for place in range(len(self._incumbent))]
        return torch.stack([torch.isin(self._allowed, tokens) for tokens in neighbours])


def _smooth(
    momentum: Float[Tensor, "..."], gradient: Float[Tensor, "length allowed"], share: float
) -> Float[Tensor, "length allowed"]:
    return share * momentum + (1 - share) * gradient if momentum.numel() else gradient


def _edited(ids: Ids, edits: Sequence[tuple[int, int]]) -> Ids:
    out = list(ids)
    for place, token in edits:
        out[place] = token
    return tuple(out)
