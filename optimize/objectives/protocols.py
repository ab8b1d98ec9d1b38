# pyright: standard
"""Protocols of an objective's terms, and the costs they add up to.

A term of one's own is a class with the five members of `WholeTerm`; see `through_rows` for the gradient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.scoring import frozen
from optimize.scoring.modes import at_least_float32
from safethink.errors import SearchError
from safethink.models.input_rows import RowLayout

Ids: TypeAlias = tuple[int, ...]


def by_length(candidates: Sequence[Ids]) -> Iterator[tuple[list[int], Int[Tensor, "some length"]]]:
    """Group candidates by length; yields their indices and token ids."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(candidates):
        places[len(ids)].append(place)
    for some in places.values():
        yield some, torch.tensor([candidates[place] for place in some])


def finite(what: str, values: Tensor, prefixes: Sequence[Ids] | None = None) -> Float[Tensor, "*shape"]:
    """The values, as they are.

    Args:
        what: they are of.
        values: one or more for every prefix, prefix by prefix.
        prefixes: token ids; None for a soft prefix.

    Raises:
        SearchError: they are no floating point tensor, or one is not a finite number; names what it is of and the
            prefix.
    """
    given: object = values
    if not (isinstance(given, Tensor) and given.is_floating_point()):
        what_it_is = f"a tensor of {given.dtype}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
        raise SearchError(f"{what} is {what_it_is}; a cost is a tensor of floating point numbers, lower is better")
    bad = ~torch.isfinite(values)
    if bad.any():
        culprit = "a soft prefix"
        if prefixes is not None:
            first = int(bad.view(len(prefixes), -1).any(1).nonzero()[0])
            culprit = f"the prefix of token ids {', '.join(map(str, prefixes[first]))}"
        raise SearchError(f"{what} of {culprit} is {values[bad][0].item()}: a forward of the reasoner overflowed")
    return values


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of candidates; lower is better.

    Attributes:
        total: the weighted sum of the terms, which the search minimises.
        terms: every term by its name, unweighted.
        exact: whether a candidate was scored on every context. The others dropped out of a race: what they cost is
            estimated from the contexts that they were scored on.
        incumbent: what the incumbent costs, scored in one batch with the best candidate; None where it was not scored
            again.
    """

    total: Float[Tensor, "candidates"]
    terms: Mapping[str, Float[Tensor, "candidates"]]
    exact: Bool[Tensor, "candidates"]
    incumbent: dict[str, float] | None = None

    @classmethod
    def of(cls, total: Float[Tensor, "candidates"], terms: Mapping[str, Float[Tensor, "candidates"]]) -> Cost:
        """The cost of candidates that were all scored on every context."""
        return cls(total, terms, torch.ones(len(total), dtype=torch.bool))

    def candidate(self, index: int) -> dict[str, float]:
        """Costs of one candidate: `total`, then term by term."""
        return {"total": self.total[index].item()} | {name: costs[index].item() for name, costs in self.terms.items()}


@dataclass(frozen=True, slots=True)
class TermGradient:
    """Gradient of a term at one prefix.

    Attributes:
        embeddings: the gradient with respect to the input rows of the prefix's tokens, in float32 at least: their
            embeddings, with per-layer inputs behind them where the layers read any.
        token_costs: beside that, exactly: what each token of the vocabulary costs at each place by being what it is;
            None where a term sees tokens through their embeddings alone.
    """

    embeddings: Float[Tensor, "length hidden"]
    token_costs: Float[Tensor, "length vocab"] | None = None


@runtime_checkable
class Meter(Protocol):
    """Counts tokens."""

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice."""
        ...


@runtime_checkable
class Term(Protocol):
    """One thing that a prefix should do; lower is better."""

    @property
    def name(self) -> str:
        """Name in logs."""
        ...

    @property
    def meters(self) -> Sequence[Meter]:
        """Meters of the tokens that are forwarded for it; a meter that terms share is counted once."""
        ...

    def gradient(self, prefix: Int[Tensor, "length"]) -> TermGradient | None:
        """Gradient of the cost of a prefix; None where no substitution of a token changes it."""
        ...

    def soft_cost(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Cost of a soft prefix: embedding rows in place of tokens, to which gradients flow."""
        ...


@runtime_checkable
class WholeTerm(Term, Protocol):
    """A term that says at once what a prefix costs."""

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Float[Tensor, "candidates"]:
        """Costs of all candidates; token ids, one prefix per row."""
        ...


@runtime_checkable
class ContextTerm(Term, Protocol):
    """A term that is a mean over contexts, so that a few of them estimate it: it takes part in a race."""

    @property
    def num_contexts(self) -> int:
        """Number of contexts."""
        ...

    def context_costs(
        self, candidates: Int[Tensor, "candidates length"], contexts: Sequence[int]
    ) -> Float[Tensor, "candidates contexts"]:
        """Costs of all candidates in some of the contexts, by their indices."""
        ...


@runtime_checkable
class OnPolicyTerm(Term, Protocol):
    """A term that learns from what the reasoner does behind the prefix found so far, and so must be told of it."""

    def move_to(self, prefix: tuple[int, ...] | Float[Tensor, "length hidden"]) -> None:
        """Sample anew where it is due; called once per step.

        Args:
            prefix: token ids of the incumbent, or the rows of a soft prefix.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """State to resume from: values that JSON can hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


@dataclass(frozen=True, slots=True)
class Weighted:
    """A term and what it counts for.

    Attributes:
        term: the term.
        weight: its factor in the total.
    """

    term: WholeTerm | ContextTerm
    weight: float = 1.0


def through_rows(
    model: PreTrainedModel,
    prefix: Int[Tensor, "length"],
    soft_cost: Callable[[Float[Tensor, "length hidden"]], Float[Tensor, ""]],
) -> TermGradient:
    """The gradient of a term that sees a prefix through its embeddings alone, by backpropagation.

    Args:
        model: the reasoner.
        prefix: token ids.
        soft_cost: the term's own.
    """
    rows = embeddings_of(model, prefix).requires_grad_()
    with frozen(model):
        (gradient,) = torch.autograd.grad(soft_cost(rows), rows)
    return TermGradient(at_least_float32(gradient))


def embeddings_of(model: PreTrainedModel, ids: Int[Tensor, "length"]) -> Float[Tensor, "length hidden"]:
    """Input rows of token ids: embeddings, with per-layer inputs behind them where the layers read any."""
    with torch.no_grad():
        return RowLayout.of(model).look_up(model, ids.to(model.device))
