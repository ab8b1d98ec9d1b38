# pyright: standard
"""The objective of a search: a weighted sum of terms, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Known:
    """Costs of a prefix, from one batch: column by column of a `CostMatrix`, in the order of a race, and by term."""

    ids: Ids
    columns: Float[Tensor, "columns"]
    terms: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {"ids": self.ids, "columns": self.columns.tolist(), "terms": self.terms}

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> _Known:
        columns = torch.tensor(value["columns"], dtype=torch.float64)
        return cls(tuple(value["ids"]), columns, value["terms"])


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
        self._known: tuple[_Known, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        meters = {id(meter): meter for weighted in self._terms for meter in weighted.term.meters}
        return sum(meter.tokens for meter in meters.values())

    @property
    def weights(self) -> dict[str, float]:
        """The factor of every term in the total, by its name."""
        return {weighted.term.name: weighted.weight for weighted in self._terms}

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """Costs of all candidates, which may differ in length.

        Where candidates race, those that hardly beat the incumbent are not scored everywhere. Before a winner may take
        its place, both are scored once more, in one batch: which batch a prefix is in moves its loss by a rounding
        error, and what is accepted must not depend on that. Where a term learns on policy, what a prefix costs changes,
        and the incumbent is scored beside the candidates.

        Args:
            candidates: token ids.
            incumbent: what a candidate has to beat; None for nothing.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        if self._racing is not None:
            return self._race(candidates, incumbent, self._racing)
        if incumbent is None or not self._on_policy:
            return self._whole(candidates)
        cost = self._whole([*candidates, incumbent])
        terms = {name: costs[:-1] for name, costs in cost.terms.items()}
        return Cost(cost.total[:-1], terms, cost.exact[:-1], cost.candidate(-1))

    def _whole(self, candidates: Sequence[Ids]) -> Cost:
        """Costs of candidates that are all scored everywhere."""
        matrix = CostMatrix(self._terms, candidates)
        return Cost.of(matrix(range(len(candidates)), _order(matrix)).mean(1), matrix.terms())

    def _race(self, candidates: Sequence[Ids], incumbent: Ids | None, config: RacingConfig) -> Cost:
        # On policy the incumbent's costs of the last step hold no more: it only meets the winner.
        bar = None if incumbent is None or self._on_policy else self._costs_of(incumbent)
        matrix = CostMatrix(self._terms, candidates)
        ended = race(matrix, len(candidates), _order(matrix), config, None if bar is None else bar.columns)
        totals, terms, winner = ended.estimates.clone(), matrix.terms(), ended.winner
        if winner is not None and (bar is None or totals[winner] < bar.columns.mean()):
            self._known = self._in_one_batch([candidates[winner], *([] if incumbent is None else [incumbent])])
            totals[winner] = self._known[0].columns.mean()
            for name, costs in terms.items():
                costs[winner] = self._known[0].terms[name]
            bar = None if incumbent is None else self._known[1]
        return Cost(totals, terms, ended.exact, None if bar is None else bar.terms)

    def _costs_of(self, ids: Ids) -> _Known:
        """Costs of a prefix everywhere; read anew where the last batch did not have it."""
        found = next((known for known in self._known if known.ids == ids), None)
        if found is None:
            (found,) = self._known = self._in_one_batch([ids])
        return found

    def _in_one_batch(self, prefixes: Sequence[Ids]) -> tuple[_Known, ...]:
        matrix = CostMatrix(self._terms, prefixes)
        columns = matrix(range(len(prefixes)), _order(matrix)).double()
        cost = Cost.of(columns.mean(1), matrix.terms())
        return tuple(_Known(ids, columns[row], cost.candidate(row)) for row, ids in enumerate(prefixes))

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
        for term in self._on_policy:
            term.move_to(prefix)

    def state_dict(self) -> dict[str, Any]:
        """State to resume from: values that JSON can hold."""
        known = [each.to_json() for each in self._known]
        return {"known": known, "terms": {term.name: term.state_dict() for term in self._on_policy}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        # A journal may be older than this key.
        self._known = tuple(map(_Known.of_json, state.get("known", [])))
        for term in self._on_policy:
            term.load_state_dict(state["terms"][term.name])


def _order(matrix: CostMatrix) -> list[int]:
    """Order in which contexts are run: they come in one that means something; this is another, the same every time."""
    return torch.randperm(matrix.num_columns, generator=torch.Generator().manual_seed(0)).tolist()
