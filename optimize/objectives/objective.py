# pyright: standard
"""The objective of a search: a weighted sum of terms, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.config import RacingConfig
from optimize.objectives.protocols import Cost, Ids, OnPolicyTerm, Weighted, embeddings_of, finite
from optimize.objectives.racing import CostMatrix, race
from optimize.scoring import frozen
from optimize.scoring.modes import at_least_float32
from safethink.errors import ConfigError

CHUNK: Final = 256
"""Tokens whose embeddings are looked up at once."""


class Objective:
    """The weighted sum of some terms.

    Args:
        model: the reasoner.
        terms: what is summed; a name may come only once.
        racing: drops candidates early; None scores all of them on every context.

    Raises:
        ConfigError: two terms have the same name, one has a negative weight, or there is none.
    """

    def __init__(self, model: PreTrainedModel, terms: Sequence[Weighted], racing: RacingConfig | None = None) -> None:
        names = [weighted.term.name for weighted in terms]
        if not terms or len(set(names)) < len(names):
            raise ConfigError(f"an objective needs terms, of different names; these are {', '.join(names) or 'none'}")
        # Turned around, a term would reward what it is there to prevent.
        negative = next((weighted for weighted in terms if weighted.weight < 0), None)
        if negative is not None:
            raise ConfigError(f"the weight of {negative.term.name} is {negative.weight}; it must be at least 0")
        self._model, self._terms, self._racing = model, tuple(terms), racing
        self._on_policy = [weighted.term for weighted in terms if isinstance(weighted.term, OnPolicyTerm)]
        self._incumbent: Ids | None = None

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        meters = {id(meter): meter for weighted in self._terms for meter in weighted.term.meters}
        return sum(meter.tokens for meter in meters.values())

    @property
    def weights(self) -> dict[str, float]:
        """The factor of every term in the total, by its name."""
        return {weighted.term.name: weighted.weight for weighted in self._terms}

    def cost(self, candidates: Sequence[Ids]) -> Cost:
        """Costs of all candidates, which may differ in length.

        Where candidates race, or a term learns on policy so that what a prefix costs changes, the incumbent is scored
        beside them.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        rescored = self._incumbent if self._racing or self._on_policy else None
        pool = [*candidates] if rescored is None else [*candidates, rescored]
        cost = self._pool_cost(pool, None if rescored is None else len(candidates))
        return cost if rescored is None else _without_incumbent(cost)

    def _pool_cost(self, pool: Sequence[Ids], incumbent: int | None) -> Cost:
        """Costs of a pool, in a race where one is configured.

        Args:
            pool: the prefixes.
            incumbent: index of the one that no race drops; None for none.
        """
        matrix = CostMatrix(self._terms, pool)
        # Contexts come in an order that means something; a race runs them in another one, the same every time.
        order = torch.randperm(matrix.num_columns, generator=torch.Generator().manual_seed(0)).tolist()
        if self._racing is None:
            total = matrix(range(len(pool)), order).mean(1)
            return Cost.of(total, matrix.terms())
        ended = race(matrix, len(pool), order, self._racing, incumbent)
        return Cost(ended.estimates, matrix.terms(), ended.exact)

    def coordinate_gradient(
        self, prefix: Int[Tensor, "length"], allowed: Int[Tensor, "allowed"]
    ) -> Float[Tensor, "length allowed"]:
        """Coordinate gradient: first-order change of the cost by each allowed token at each place.

            g[i, v] = E_v . d cost / d e_i + cost of v as a label at i,    up to a constant per place i

        The gradient with respect to the prefix's embeddings, summed over terms, times the embeddings of the allowed
        tokens (GCG, arXiv 2307.15043, section 2); plus what a term says exactly of each token. Where layers read
        per-layer inputs too, these are part of E_v and e_i.

        Args:
            prefix: token ids.
            allowed: ids that may take a place.

        Raises:
            SafeThinkError: a term's gradient has a number that is not finite.
        """
        ids = tuple(prefix.tolist())
        embeddings = at_least_float32(torch.zeros_like(embeddings_of(self._model, prefix)))
        as_tokens = embeddings.new_zeros(len(prefix), len(allowed))
        for term, weight in ((weighted.term, weighted.weight) for weighted in self._terms):
            gradient = term.gradient(prefix)
            if gradient is None:
                continue
            embeddings += weight * finite(f"the gradient of {term.name}", gradient.embeddings, [ids])
            if gradient.token_costs is not None:
                as_tokens += weight * gradient.token_costs[:, allowed.to(as_tokens.device)]
        # Few at a time, so that what is looked up of a large vocabulary stays in a processor's cache.
        rows = (at_least_float32(embeddings_of(self._model, some)) for some in allowed.split(CHUNK))
        return (torch.cat([embeddings @ some.T for some in rows], dim=1) + as_tokens).cpu()

    def soft_loss(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Cost of a soft prefix; gradients flow to its rows.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        with frozen(self._model):
            costs = [
                weighted.weight * finite(weighted.term.name, weighted.term.soft_cost(rows)) for weighted in self._terms
            ]
            return torch.stack(costs).sum()

    def move_to(self, prefix: Ids | Float[Tensor, "length hidden"]) -> None:
        """Take note of where the search stands; once per step, before anything is scored.

        Args:
            prefix: the incumbent's token ids, or the rows of a soft prefix.
        """
        self._incumbent = None if isinstance(prefix, Tensor) else prefix
        for term in self._on_policy:
            term.move_to(prefix)

    def state_dict(self) -> dict[str, Any]:
        """State to resume from: values that JSON can hold."""
        return {"incumbent": self._incumbent, "terms": {term.name: term.state_dict() for term in self._on_policy}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._incumbent = None if state["incumbent"] is None else tuple(state["incumbent"])
        for term in self._on_policy:
            term.load_state_dict(state["terms"][term.name])


def _without_incumbent(pool: Cost) -> Cost:
    """Split a pool's cost into that of the candidates and of the incumbent, which stands last."""
    terms = {name: costs[:-1] for name, costs in pool.terms.items()}
    return Cost(pool.total[:-1], terms, pool.exact[:-1], pool.candidate(-1))
