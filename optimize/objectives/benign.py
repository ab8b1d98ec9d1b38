# pyright: standard
"""Terms over harmless contexts: likelihood of the reasoner's own continuation, and KL divergence from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.objectives.cached_scorer import CachedScorer
from optimize.objectives.protocols import TermGradient, through_rows


class BenignLikelihood:
    """Mean loss per token of the reasoner's own continuations of harmless prompts, with the prefix forced in.

    Args:
        cached: of harmless contexts, with those continuations as targets.
    """

    name = "benign"

    def __init__(self, cached: CachedScorer) -> None:
        self._cached, self.num_contexts = cached, cached.num_contexts
        self.meters = (cached,)

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of candidates in some of the contexts."""
        return self._cached.scorer.continuations(candidates, contexts)

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        """Backpropagated batch by batch, which bounds the memory."""
        return TermGradient(self._cached.scorer.gradient(prefix))

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Averaged over contexts."""
        return self._cached.scorer.soft_losses(rows).mean()


class BenignDivergence:
    """Mean KL divergence, per token of those continuations, from the reasoner with nothing injected.

    The likelihood looks at the token that was said; this looks at everything else that might have been.

    Args:
        cached: of harmless contexts, with the reasoner's own continuations as targets.
    """

    name = "benign_kl"

    def __init__(self, cached: CachedScorer) -> None:
        self._cached, self.num_contexts = cached, cached.num_contexts
        self.meters = (cached,)
        # What is said with nothing injected is read here rather than at first use: a search that goes on after being
        # killed has counted the same tokens at every step as one that was not.
        cached.scorer.divergence(torch.empty(0, 1, dtype=torch.long), [])

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of candidates in some of the contexts."""
        return self._cached.scorer.divergence(candidates, contexts)

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        """By backpropagation."""
        return through_rows(self._cached.model, prefix, self.soft_cost)

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Averaged over contexts."""
        return self._cached.scorer.soft_divergence(rows).mean()
