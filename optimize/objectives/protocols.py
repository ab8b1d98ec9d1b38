# pyright: standard
"""Protocols of an objective's terms: cost and gradient of a prefix.

A term of one's own is a class with the five members of `WholeTerm`; see `through_rows` for the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.scoring import frozen
from optimize.scoring.modes import at_least_float32


@dataclass(frozen=True, slots=True)
class TermGradient:
    """Gradient of a term at one prefix.

    Attributes:
        embeddings: the gradient with respect to the embeddings of the prefix's tokens, in float32 at least.
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
    """Input embeddings of token ids."""
    # Through the module, not its weight: some models scale what they look up.
    with torch.no_grad():
        return model.get_input_embeddings()(ids.to(model.device))
