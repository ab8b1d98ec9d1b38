# pyright: standard
"""REINFORCE with a leave-one-out baseline (RLOO): drawn continuations, weighted by what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.contexts import Context
from optimize.objectives.batches import Ids
from optimize.objectives.cached_scorer import CachedScorer

MakeScorer: TypeAlias = Callable[[Sequence[Context], Sequence[Ids]], CachedScorer]
"""Builds the scorer of contexts and what follows there; `CachedScorer.of` without its first and last argument."""


@dataclass(frozen=True, slots=True)
class SampledContext:
    """Continuations sampled in one context, with their rewards.

    Attributes:
        context: where.
        continuations: token ids; empty ones where there was no room left.
        rewards: what each is worth.
    """

    context: Context
    continuations: tuple[Ids, ...]
    rewards: tuple[float, ...]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    r"""Advantage of each sample: its reward less the mean reward of the others (arXiv 2402.14740, section 3.2).

    The baseline of a sample does not depend on it, so that with samples of the policy

        -1/n \sum_i A_i \nabla log p(y_i)

    is an unbiased estimate of the gradient of minus the expected reward. Where all rewards are equal, all advantages
    are 0.

    Args:
        rewards: of at least two samples.
    """
    n, total = len(rewards), sum(rewards)
    assert n > 1, "a single sample has no baseline"
    return [reward - (total - reward) / (n - 1) for reward in rewards]


class Surrogate:
    """-1/n sum_i A_i log p(y_i | context, prefix), context by context, as a function of the prefix.

    A continuation is one action, so its log-probability is that of all its tokens.

    Args:
        sampled: continuations and rewards, context by context.
        read: builds the scorer of them.
    """

    def __init__(self, sampled: Sequence[SampledContext], read: MakeScorer) -> None:
        self.num_contexts = len(sampled)
        weighed = [
            (place, some.context, ids, advantage * len(ids) / len(some.rewards))
            for place, some in enumerate(sampled)
            for ids, advantage in zip(some.continuations, leave_one_out(some.rewards), strict=True)
            # What has no advantage says nothing, and what has no tokens is certain.
            if advantage and ids
        ]
        self._owners = [place for place, *_ in weighed]
        self._factors = torch.zeros(len(weighed), len(sampled), dtype=torch.float64)
        for row, (place, *_, factor) in enumerate(weighed):
            self._factors[row, place] = factor
        self._cached = (
            read([context for _, context, *_ in weighed], [ids for _, _, ids, _ in weighed]) if weighed else None
        )

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        return self._cached.tokens if self._cached else 0

    def of(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Values at all candidates, in some of the contexts."""
        rows = [row for row, owner in enumerate(self._owners) if owner in contexts]
        if self._cached is None or not rows:
            return torch.zeros(len(candidates), len(contexts))
        losses = self._cached.scorer.continuations(candidates, rows)
        return losses @ self._factors.to(losses)[rows][:, list(contexts)]

    def of_rows(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, "contexts"]:
        """Values at a soft prefix, in all contexts; gradients flow to its rows."""
        if self._cached is None:
            return 0.0 * rows.sum() + rows.new_zeros(self.num_contexts)
        losses = self._cached.scorer.soft_losses(rows)
        return losses @ self._factors.to(losses)
