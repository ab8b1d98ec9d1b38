# pyright: standard
"""Terms over contexts where the monitor fired: likelihood of the safe continuation, unlikelihood of the violation."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Int
from torch import Tensor

from optimize.objectives.cached_scorer import CachedScorer
from optimize.objectives.protocols import TermGradient, through_rows


class SafeContinuation:
    """Mean loss per token of mined safe continuations.

    They are the reasoner's own, sampled with nothing injected (`contexts/mining.py`), so that making them likely brings
    it back to what it would have said on a better day.

    Args:
        cached: of the contexts where the monitor fired, with the safe continuations as targets.
    """

    name = "continuation"

    def __init__(self, cached: CachedScorer) -> None:
        self._cached, self.num_contexts = cached, cached.num_contexts
        self.meters = (cached,)

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of candidates in some of the contexts."""
        return self._cached.losses(candidates, contexts).continuation

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        """Backpropagated batch by batch, which bounds the memory."""
        return TermGradient(self._cached.scorer.gradient(prefix))

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Averaged over contexts."""
        return self._cached.scorer.soft_losses(rows).mean()


class Unlikelihood:
    """The log-likelihood per token of the violating step, clipped.

    Minimised, it makes unlikely what the monitor fired at. It has no lower bound, so a search could spend itself on
    making the impossible more so: beyond `clip` nats per token there is nothing to gain.

    Args:
        cached: of the contexts where the monitor fired, with the violating steps as targets.
        clip: nats per token.
    """

    name = "unlikelihood"

    def __init__(self, cached: CachedScorer, clip: float) -> None:
        self._cached, self._clip, self.num_contexts = cached, clip, cached.num_contexts
        self.meters = (cached,)

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of candidates in some of the contexts."""
        return -self._cached.scorer.continuations(candidates, contexts).clamp(max=self._clip)

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        """Zero in contexts beyond the clip."""
        return through_rows(self._cached.model, prefix, self.soft_cost)

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Averaged over contexts."""
        return -self._cached.scorer.soft_losses(rows).clamp(max=self._clip).mean()
