# pyright: standard
"""Greedy coordinate gradient (GCG, arXiv 2307.15043) over many contexts at once, for short prefixes.

One step:
    1. the gradient of the cost says, for every place and token, what putting it there would change to first order;
       it is smoothed over steps (momentum, arXiv 2405.01229);
    2. the most promising substitutes of every place that were never tried make up the edits of this step, and tokens
       of the targets may be among them; early ones may change several places at once (ACG), and the best edits of the
       step before, merged (I-GCG, arXiv 2405.21018), go ahead of them;
    3. the driver drops edits that do not survive being written down and read again, and scores what is left exactly;
    4. the incumbent stays unless something beats it; a buffer keeps the runners-up, to go on from where its
       neighbourhood is exhausted. At a plateau a search may go on from the best of what is worse, as GCG does.

How many edits are scored may follow how many of the last ones were better. Early in a search many are, and late few.
Where every candidate is scored in all contexts, a gradient costs as much as two candidates, so that early steps may be
narrow; where candidates race, it costs as much as many that drop out.

A short prefix has few neighbours, and sampling them with replacement, as GCG does, mostly draws the same ones again.
Here nothing is scored twice: tried edits make room for the next best, so a neighbourhood that holds no improvement is
worked through rather than resampled, and one that is small is searched exhaustively. A start that no longer improves is
left for another one, from random tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from optimize.config import GcgConfig
from optimize.search import edits
from optimize.search.method import (
    MAX_DRAWS,
    Alphabet,
    Archive,
    Ids,
    Schedule,
    Scored,
    Searchable,
    first_survivor,
    random_prefixes,
)
from safethink.errors import ConfigError

MANY_HITS = 3
"""Better candidates in a step after which the next one is half as wide."""


class Gcg:
    """Edits the incumbent where the gradient promises most.

    Args:
        config: how wide, how patient.
        objective: gives the gradients.
        vocabulary: what prefixes are made of.
        start: what the first start begins with; filled up to the length.
        archive: what was tried so far.
        targets: what should follow a prefix, context by context.

    Raises:
        ConfigError: words of the targets are asked for, and none of their tokens is allowed.
    """

    def __init__(
        self,
        config: GcgConfig,
        objective: Searchable,
        vocabulary: Alphabet,
        start: Ids,
        archive: Archive,
        targets: Sequence[Ids] = (),
    ) -> None:
        self._config, self._objective, self._vocabulary = config, objective, vocabulary
        known = set(vocabulary.allowed)
        self._target_tokens = [token for target in targets for token in target if token in known]
        if config.target_share and not self._target_tokens:
            raise ConfigError("search.target_share: no token of the targets may enter a prefix; leave it out")
        self._start, self._archive = start, archive
        self._allowed = torch.tensor(vocabulary.allowed)
        self._schedule = Schedule(config, objective)
        self._restart = self._stale = 0
        self._incumbents: list[tuple[Ids, float]] = []
        self._momentum = torch.empty(0)
        self._parent: Ids = ()
        self._merged: list[Ids] = []
        self._record: tuple[Ids, float] | None = None
        self._width = config.min_candidates or config.candidates

    @property
    def num_to_score(self) -> int:
        """Number of candidates to score of the next proposals."""
        return self._width

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Edits of an incumbent, merged ones of the step before ahead of them; without any, another start."""
        if self._stale > self._config.patience:
            self._leave()
        # Sorting is stable: cheapest first, and so among those that are exhausted.
        for ids, _ in sorted(self._incumbents, key=lambda incumbent: self._is_exhausted(incumbent[0])):
            if candidates := self._edits(ids, generator):
                self._parent = ids
                return [*self._merged, *candidates]
        if self._incumbents:
            self._leave()
        kept = self._start if self._restart == 0 else ()
        drawn = random_prefixes(self._allowed, self._config.length, MAX_DRAWS, generator, kept)
        return first_survivor(drawn, self._vocabulary, self._archive)

    def observe(self, scored: Sequence[Scored]) -> None:
        """Keep the cheapest of this start, and merge the best single edits for the next step."""
        self._schedule.step()
        known, came = dict(self._incumbents), {candidate.ids: candidate.cost for candidate in scored}
        # The best of the start may have been scored once more: after an escape it is not gone back to.
        if self._record is not None and self._record[0] not in known and self._record[0] in came:
            self._record = self._record[0], came.pop(self._record[0])
        # So may the incumbent: it keeps its place, at the new cost.
        least = min((came.get(ids, cost) for ids, cost in known.items()), default=math.inf)
        new = _cheapest_first({ids: cost for ids, cost in came.items() if ids not in known})
        hits = sum(cost < least for _, cost in new)
        at_plateau = bool(new) and not hits and self._width == self._config.candidates
        if self._config.escape and at_plateau:
            self._record = self._record or _cheapest_first(known | came)[0]
            self._incumbents = new[:1]
        else:
            self._incumbents = _cheapest_first(known | came)[: self._config.buffer]
        bar = least if self._record is None else self._record[1]
        improved = bool(self._incumbents) and self._incumbents[0][1] < bar
        self._record = None if improved else self._record
        self._stale = 0 if improved else self._stale + 1
        self._width = self._next_width(hits)
        self._merged = edits.merged(self._parent, scored, self._config.merge) if self._parent else []

    def state_dict(self) -> dict[str, Any]:
        """The start, its incumbents, the momentum and what was merged."""
        return {
            "restart": self._restart,
            "stale": self._stale,
            "incumbents": self._incumbents,
            "momentum": self._momentum,
            "merged": self._merged,
            "record": self._record,
            "width": self._width,
            "pace": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._restart, self._stale, self._momentum = state["restart"], state["stale"], state["momentum"]
        self._incumbents = [(tuple(ids), cost) for ids, cost in state["incumbents"]]
        self._merged = [tuple(ids) for ids in state["merged"]]
        # A journal may be older than these two keys.
        record, self._width = state.get("record"), state.get("width", self._width)
        self._record = None if record is None else (tuple(record[0]), record[1])
        self._schedule.load_state_dict(state["pace"])

    def _leave(self) -> None:
        """Leave this start for another one."""
        self._restart, self._stale = self._restart + 1, 0
        self._incumbents, self._momentum, self._parent, self._merged = [], torch.empty(0), (), []
        self._record, self._width = None, self._config.min_candidates or self._config.candidates

    def _next_width(self, hits: int) -> int:
        """Candidates to score in the next step, after one in which so many beat the incumbent.

        In a race those that were scored everywhere are counted, so that hits are few there.
        """
        fewest, most = self._config.min_candidates, self._config.candidates
        if fewest is None or (0 < hits < MANY_HITS):
            return self._width
        return max(fewest, self._width // 2) if hits else min(most, 2 * self._width)

    def _is_exhausted(self, ids: Ids) -> bool:
        """Whether as many single edits were tried as one round of promising ones has."""
        one_round = len(ids) * min(self._config.top_k, len(self._allowed))
        return int(edits.tried(ids, self._allowed, self._archive).sum()) >= one_round

    def _edits(self, ids: Ids, generator: torch.Generator) -> list[Ids]:
        """Edits of a prefix that were never tried, in random order.

        The most promising ones, one at a time, and a share of pairs of them: word order and word pairs matter, and no
        single edit crosses a barrier between two of them. Early on, several at a time. And a share that puts words of
        the targets in place, since what was said is likely to be said again.
        """
        gradient = self._objective.coordinate_gradient(torch.tensor(ids), self._allowed)
        self._momentum = edits.smooth(self._momentum, gradient, self._config.momentum)
        tried = edits.tried(ids, self._allowed, self._archive)
        single = edits.promising(self._momentum, tried, self._allowed, self._config.top_k)
        if (places := self._places()) > 1:
            changes = edits.several(single, places, generator)
        else:
            changes = [(edit,) for edit in single] + edits.pairs(single, self._config.pair_share, generator)
        if self._config.target_share:
            share = self._config.target_share
            changes = changes + edits.primed(len(ids), self._target_tokens, share, len(changes), generator)
        shuffled = (changes[index] for index in torch.randperm(len(changes), generator=generator).tolist())
        candidates = dict.fromkeys(edits.edited(ids, change) for change in shuffled)
        return [candidate for candidate in candidates if candidate not in self._archive]

    def _places(self) -> int:
        """Places that are edited at once: falls from `first_edits` to one half way through."""
        first = min(self._config.first_edits, self._config.length)
        return max(1, round(first - (first - 1) * 2 * self._schedule.share))


def _cheapest_first(costs: Mapping[Ids, float]) -> list[tuple[Ids, float]]:
    """Candidates with what they cost, cheapest first."""
    return sorted(costs.items(), key=lambda candidate: candidate[1])
