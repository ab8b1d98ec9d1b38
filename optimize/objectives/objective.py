"""What a prefix costs: a weighted sum of terms, and where it falls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.objectives.cost import Cost
from optimize.objectives.term import OnPolicyTerm, Weighted, embeddings_of
from optimize.scoring import frozen
from safethink.errors import ConfigError, SafeThinkError

Ids = tuple[int, ...]


class Objective:
    """The weighted sum of some terms.

    Args:
        model: the reasoner.
        terms: what is summed; a name may come only once.

    Raises:
        ConfigError: two terms have the same name, or there is none.
    """

    def __init__(self, model: PreTrainedModel, terms: Sequence[Weighted]) -> None:
        names = [each.term.name for each in terms]
        if not terms or len(set(names)) < len(names):
            raise ConfigError(f"an objective needs terms, of different names; these are {', '.join(names) or 'none'}")
        self._model, self._terms = model, tuple(terms)
        self._on_policy = [each.term for each in terms if isinstance(each.term, OnPolicyTerm)]

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        meters = {id(meter): meter for each in self._terms for meter in each.term.meters}
        return sum(meter.tokens for meter in meters.values())

    def cost(self, candidates: Sequence[Ids]) -> Cost:
        """What every candidate costs; candidates may differ in length.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        terms = self._score(candidates)
        return Cost.of(self._total(terms), terms)

    def coordinate_gradient(
        self, prefix: Int[Tensor, "length"], allowed: Int[Tensor, "allowed"]
    ) -> Float[Tensor, "length allowed"]:
        """What putting each allowed token at each place would change, to first order, up to a constant per place.

        The gradient with respect to the prefix's embeddings, summed over terms, times the embeddings of the allowed
        tokens (GCG, arXiv 2307.15043, section 2); plus what a term says exactly of each token.

        Args:
            prefix: token ids.
            allowed: ids that may take a place.

        Raises:
            SafeThinkError: a term's gradient has a number that is not finite.
        """
        rows = embeddings_of(self._model, allowed).float()
        embeddings = rows.new_zeros(len(prefix), rows.shape[1])
        as_tokens = rows.new_zeros(len(prefix), len(allowed))
        for each in self._terms:
            gradient = each.term.gradient(prefix)
            if gradient is not None:
                embeddings += each.weight * _finite(f"the gradient of {each.term.name}", gradient.embeddings, prefix)
            if gradient is not None and gradient.token_costs is not None:
                as_tokens += each.weight * gradient.token_costs[:, allowed.to(rows.device)]
        return (embeddings @ rows.T + as_tokens).cpu()

    def soft_loss(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """What a soft prefix costs; gradients flow to its rows.

        Raises:
            SafeThinkError: a term is not a finite number.
        """
        with frozen(self._model):
            costs = [each.weight * _finite(each.term.name, each.term.soft_cost(rows), None) for each in self._terms]
            return torch.stack(costs).sum()

    def move_to(self, prefix: Ids | Float[Tensor, "length hidden"]) -> None:
        """Tell the terms that learn on policy where the search stands; once per step, before anything is scored.

        Args:
            prefix: the incumbent's token ids, or the rows of a soft prefix.
        """
        for term in self._on_policy:
            term.move_to(prefix)

    def state_dict(self) -> dict[str, Any]:
        """What going on after being killed needs, by term: values that JSON can hold; empty where nothing is drawn."""
        return {term.name: term.state_dict() for term in self._on_policy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        for term in self._on_policy:
            term.load_state_dict(state[term.name])

    def _score(self, candidates: Sequence[Ids]) -> dict[str, Float[Tensor, "candidates"]]:
        """Every term on all of its contexts; candidates of one length share a batch."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, ids in enumerate(candidates):
            places[len(ids)].append(place)
        parts: dict[str, list[Tensor]] = {each.term.name: [] for each in self._terms}
        for some in places.values():
            batch = torch.tensor([candidates[place] for place in some])
            # All terms of a batch before the next one, so that those over the same contexts forward once.
            for each in self._terms:
                parts[each.term.name].append(_finite(each.term.name, each.term.costs(batch).cpu(), batch))
        back = torch.tensor([place for some in places.values() for place in some]).argsort()
        return {name: torch.cat(part)[back] for name, part in parts.items()}

    def _total(self, terms: Mapping[str, Float[Tensor, "candidates"]]) -> Float[Tensor, "candidates"]:
        return torch.stack([each.weight * terms[each.term.name] for each in self._terms]).sum(0)


def _finite(name: str, values: Tensor, prefixes: Int[Tensor, "*prefixes length"] | None) -> Tensor:
    """The values, which belong to `prefixes` row by row; None stands for a soft prefix.

    Raises:
        SafeThinkError: one is not a finite number; names the term and the prefix.
    """
    bad = ~torch.isfinite(values)
    if bad.any():
        culprit = "a soft prefix" if prefixes is None else f"the prefix of token ids {_first(prefixes, bad)}"
        raise SafeThinkError(f"{name} of {culprit} is {values[bad][0].item()}: a forward of the reasoner overflowed")
    return values


def _first(prefixes: Int[Tensor, "*prefixes length"], bad: Tensor) -> list[int]:
    return prefixes[bad][0].tolist() if prefixes.ndim == 2 else prefixes.tolist()
