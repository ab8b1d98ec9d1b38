# pyright: standard
"""Inputs and outputs of scoring: examples, losses, gradients."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """One context and the target whose loss a prefix, put between both, should lower.

    Attributes:
        context: prompt and trace, as token ids.
        target: the continuation to be made likely, as token ids.
        separator: what is injected right behind the prefix, as token ids; it is read, but costs nothing.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    separator: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean nats per token, of every candidate in every context.

    Attributes:
        continuation: of the target, given context and prefix.
        nll: of the prefix itself, given the context.
    """

    continuation: Float[Tensor, "candidates contexts"]
    nll: Float[Tensor, "candidates contexts"]


@dataclass(frozen=True, slots=True)
class NllGradient:
    """Gradient of a prefix's own NLL, averaged over contexts, in float32 at least.

    A prefix is both input and label of its NLL.

    Attributes:
        embeddings: as input: the gradient with respect to the prefix's embeddings.
        token_nll: as label, exactly: what each token of the vocabulary would cost at each place, given the prefix
            before it.
    """

    embeddings: Float[Tensor, "length hidden"]
    token_nll: Float[Tensor, "length vocab"]
