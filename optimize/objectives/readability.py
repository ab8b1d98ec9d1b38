# pyright: standard
"""The prefix should read like something that the reasoner would write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.objectives.cached_scorer import CachedScorer
from optimize.objectives.protocols import Meter, TermGradient


class Readability:
    """Mean negative log-likelihood per token of the prefix itself, given the contexts.

    Args:
        cached: of the contexts where the monitor fired; shared with `SafeContinuation`, whose forward says it by the
            way.
    """

    name = "nll"

    def __init__(self, cached: CachedScorer) -> None:
        self._cached, self.num_contexts = cached, cached.num_contexts
        self.meters = (cached,)

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of candidates in some of the contexts."""
        return self._cached.losses(candidates, contexts).nll

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient:
        """A prefix is both input and label of its own NLL: the embeddings' part, and exactly what each label costs."""
        gradient = self._cached.scorer.nll_gradient(prefix)
        return TermGradient(gradient.embeddings, gradient.token_nll / len(prefix))

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """0: rows are no tokens, so they have no likelihood."""
        return rows.new_zeros(())


class Length:
    """Number of tokens, or soft rows, of a prefix; tells candidates apart where a method lets the length move."""

    name = "length"
    meters: tuple[Meter, ...] = ()

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Float[Tensor, "candidates"]:
        """The same for all of one length."""
        return torch.full((len(candidates),), float(candidates.shape[1]))

    def gradient(self, prefix: Int[Tensor, "length"]) -> None:
        """None: a substitution leaves the length as it is."""

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """The number of rows."""
        return rows.new_tensor(float(len(rows)))
