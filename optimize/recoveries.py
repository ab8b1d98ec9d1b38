# pyright: standard
"""What phrases are tried on: the states that choose, one injection each, judged as in selection."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from optimize.config import ObjectiveConfig
from optimize.objectives import Reading
from optimize.search.method import Ids
from optimize.selection.trials import Arena


class Recoveries:
    """The drifted states of an arena, for a search that measures what happens rather than a loss.

    Args:
        arena: where prefixes are tried.
        config: how harmless continuations are read, for the divergence.

    Attributes:
        num_contexts: drifted states.
        tokens: tokens forwarded so far, those of the states among them.
    """

    def __init__(self, arena: Arena, config: ObjectiveConfig) -> None:
        self.num_contexts, self.tokens = len(arena.drifted), 0
        self._arena = arena
        with_target = [context for context in arena.harmless if context.target_ids]
        self._harmless = Reading.of(arena.guarded, with_target, config=config) if with_target else None

    def recovered(self, prefix: Ids, contexts: Sequence[int]) -> list[float]:
        """The share of seeds that recovers after one injection, for each of some states, by index."""
        states = [self._arena.drifted[index] for index in contexts]
        results = self._arena.inject(states, prefix)
        self.tokens += sum(
            len(each.prompt_ids) + len(each.verdict.trace) + len(each.verdict.answer) for each in results
        )
        recovered = self._arena.judged_safe(results)
        samples = self._arena.samples
        return [sum(recovered[start : start + samples]) / samples for start in range(0, len(recovered), samples)]

    def divergence(self, prefix: Ids) -> float:
        """KL divergence of harmless continuations to the bare reasoner, in nats per token; 0 without any."""
        if self._harmless is None:
            return 0.0
        before = self._harmless.tokens
        divergence = self._harmless.scorer.divergence(torch.tensor([prefix])).mean().item()
        self.tokens += self._harmless.tokens - before
        return divergence
