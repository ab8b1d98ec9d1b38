# pyright: standard
"""Beams of the reasoner's own samples, ranked by the objective (BEAST, arXiv 2402.15570): readable by construction.

One step:
    1. every beam is followed by tokens sampled, each once, from what the reasoner would say next;
    2. the driver scores the longer prefixes, and the cheapest become the next beams.

At the full length another start begins, whose samples differ. Nothing is scored twice: where a prefix comes up that an
earlier start has tried, its cost is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch

from optimize.config import BeamConfig
from optimize.search.method import Alphabet, Archive, Ids, Scored
from optimize.search.proposals import Proposer

NOTHING: Ids = ()


class Beam:
    """Grows prefixes token by token.

    Args:
        config: how many beams and branches.
        vocabulary: what prefixes are made of.
        start: what the beams of the first start begin with.
        archive: what was tried so far.
        proposer: says what the reasoner would say.
    """

    def __init__(
        self, config: BeamConfig, vocabulary: Alphabet, start: Ids, archive: Archive, proposer: Proposer
    ) -> None:
        self._config, self._archive, self._proposer = config, archive, proposer
        self._allowed = torch.tensor(vocabulary.allowed)
        self._beams: list[Ids] = [start]
        self._proposed: list[Ids] = []

    @property
    def tokens(self) -> int:
        """Tokens forwarded to hear what the reasoner would say."""
        return self._proposer.tokens

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """The beams, each longer by one token; a start that is as long as it may be already, as it is."""
        is_whole = len(self._beams[0]) == self._config.length
        self._proposed = self._beams if is_whole else self._longer(generator)
        return self._proposed

    def observe(self, scored: Sequence[Scored]) -> None:
        """Keep the cheapest of what was proposed, whether it was scored now or earlier."""
        proposed = set(self._proposed)
        ranked = [ids for ids in self._archive.ranked() if ids in proposed and ids not in self._archive.estimated]
        self._beams = ranked[: self._config.beams]
        if not self._beams or len(self._beams[0]) == self._config.length:
            self._beams = [NOTHING]

    def state_dict(self) -> dict[str, Any]:
        """The beams."""
        return {"beams": self._beams}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._beams = [tuple(ids) for ids in state["beams"]]

    def _longer(self, generator: torch.Generator) -> list[Ids]:
        """Every beam with each of its branches; first the first branch of every beam, then the second, and so on.

        However few beams there are, as many branches are drawn as `beams` of them would have.
        """
        num_branches = min(-(-self._config.beams * self._config.branches // len(self._beams)), len(self._allowed))
        log_probs = torch.stack([each[-1] for each in self._proposer.next_tokens(self._beams)])
        # The largest of log-probabilities with Gumbel noise are a sample without replacement (arXiv 1903.06059).
        noise = -torch.empty_like(log_probs).exponential_(generator=generator).log()
        branches = self._allowed[(log_probs + noise).topk(num_branches).indices].tolist()
        grown = [[(*beam, token) for token in tokens] for beam, tokens in zip(self._beams, branches, strict=True)]
        return list(chain.from_iterable(zip(*grown, strict=True)))
