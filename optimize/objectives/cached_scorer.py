# pyright: standard
"""A scorer that caches its last losses, for terms over the same contexts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from optimize.config import ObjectiveConfig
from optimize.contexts import Context
from optimize.parallel.cluster import Cluster
from optimize.scoring import Example, Losses, Scorer
from safethink.guarded import SafeThink


class CachedScorer:
    """A scorer that keeps its last losses, so that terms over the same contexts forward once.

    Args:
        scorer: scores prefixes over the contexts.

    Attributes:
        scorer: for what only one term asks.
        model: the reasoner.
        num_contexts: how many contexts there are.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.model, self.num_contexts = scorer, scorer.model, scorer.num_contexts
        self._asked: tuple[Int[Tensor, "candidates length"], tuple[int, ...]] | None = None
        self._losses: Losses | None = None

    @classmethod
    def of(
        cls,
        guarded: SafeThink,
        contexts: Sequence[Context],
        targets: Sequence[tuple[int, ...]] | None = None,
        *,
        config: ObjectiveConfig,
        cluster: Cluster | None = None,
    ) -> CachedScorer:
        """Build the scorer of contexts, each with what should or should not follow a prefix there.

        Args:
            guarded: the reasoner.
            contexts: where prefixes are injected.
            targets: what follows, as token ids; None for the contexts' own targets.
            config: how they are read.
            cluster: processes that share the contexts.
        """
        follows = [context.target_ids for context in contexts] if targets is None else targets
        separator = guarded.thought.separator_ids
        examples = [Example(context.ids, target, separator) for context, target in zip(contexts, follows, strict=True)]
        return cls(
            Scorer(guarded.model, examples, config.rows_per_forward, attention=config.attention, cluster=cluster)
        )

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        return self.scorer.tokens

    def losses(self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int] | None = None) -> Losses:
        """Loss of every candidate in every context, or in some of them by their indices."""
        asked = candidates, tuple(range(self.num_contexts) if contexts is None else contexts)
        if self._losses is None or self._asked is None or not _same(asked, self._asked):
            self._losses, self._asked = self.scorer.losses(*asked), asked
        return self._losses


def _same(one: tuple[Tensor, tuple[int, ...]], other: tuple[Tensor, tuple[int, ...]]) -> bool:
    return one[1] == other[1] and torch.equal(one[0], other[0])
