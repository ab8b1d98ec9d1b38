# pyright: standard
"""Sampling of the next token: temperature, top-k, nucleus; each row from its own random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from safethink.errors import LogitsError


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters: temperature, nucleus mass, top-k.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass; 1 keeps everything.
        top_k: number of most likely tokens kept; 0 keeps everything.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


def uniforms(seed: int, start: int, num_tokens: int) -> Float64[Tensor, " num_tokens"]:
    """Draw uniform numbers in [0, 1) of the stream `seed`, from a position on.

    A token's number depends on its position in the sequence alone, so that thinking decoded in one go and step by step
    are the same tokens.
    """
    return torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random(start + num_tokens)[start:])


def can_choose(logits: Float[Tensor, "*batch vocab"]) -> Bool[Tensor, "*batch"]:
    """Whether a next token can be chosen: no logit is NaN or +inf, and not all are -inf.

    One reduction says all three, because a maximum passes a NaN on. Single logits of -inf are tokens that are banned.
    """
    return logits.amax(-1).isfinite()


def no_choice(row: int, num_tokens: int) -> LogitsError:
    """The error of a row whose next token cannot be chosen, see `can_choose`.

    Args:
        row: its key.
        num_tokens: how many tokens the reasoner had read of it.
    """
    return LogitsError(
        f"the reasoner's next-token logits are NaN or infinite after {num_tokens} tokens: its weights are damaged, or "
        "overflow in their precision; try another `dtype`, such as bfloat16 for float16",
        row,
    )


def sample_tokens(
    logits: Float[Tensor, "batch vocab"], uniform: Float64[Tensor, " batch"], sampling: Sampling
) -> Int[Tensor, " batch"]:
    """Sample one token per row by inverting its cumulative distribution at `uniform`, in float64.

    token = min {v : sum_{w <= v} p_w > u},    u uniform in [0, 1)    (inverse transform sampling)

    No operation crosses rows, so a row's token never depends on its neighbours.

    Args:
        logits: what the model says of the next token.
        uniform: one number in [0, 1) per row; not looked at when greedy.
        sampling: temperature and truncation.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scores = logits.double() / sampling.temperature
    if sampling.top_k or sampling.top_p < 1:
        scores = truncate(scores, sampling)
    cumulative = scores.softmax(-1).cumsum(-1)
    total = cumulative[:, -1]
    # Just below the total, or rounding could pass the last token that has any probability.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def truncate(scores: Float64[Tensor, "batch vocab"], sampling: Sampling) -> Float64[Tensor, "batch vocab"]:
    """Set to -inf what top-k and nucleus sampling leave out, in that order.

    The nucleus is the smallest set of likeliest tokens whose mass reaches `top_p` (Holtzman et al., arXiv 1904.09751).
    """
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = -torch.inf
    probabilities = ordered.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    # The likeliest token always stays; rounding may leave mass_before of the others a hair below 1.
    ordered = ordered.masked_fill(mass_before >= sampling.top_p, -torch.inf) if sampling.top_p < 1 else ordered
    return torch.empty_like(scores).scatter_(-1, order, ordered)
