# pyright: standard
"""Sampling of the next token: temperature, top-k, nucleus; each row from its own random numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from safethink.engines.truncation import ROUNDING, Truncated, truncate, truncate_to_highest, truncate_to_nucleus
from safethink.errors import LogitsError

LARGE_VOCABULARY: Final = 2**13
"""Tokens from which on sorting all of them is slower than finding the likeliest."""


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


def no_choice(row: int, num_tokens: int, logits: Float[Tensor, "*asked vocab"]) -> LogitsError:
    """The error of a row whose next token cannot be chosen, see `can_choose`.

    Args:
        row: its key.
        num_tokens: how many tokens the reasoner had read of it.
        logits: its own.
    """
    found = "NaN" if logits.isnan().any() else "inf" if logits.isposinf().any() else "-inf for every token"
    dtype = str(logits.dtype).removeprefix("torch.")
    return LogitsError(
        f"the reasoner's next-token logits are {found} after {num_tokens} tokens, in {dtype}: its weights are damaged, "
        "or overflow in their precision; try another `dtype`, such as bfloat16 for float16",
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
    if not logits.is_cpu or logits.shape[-1] < LARGE_VOCABULARY:
        return _sample(logits, uniform, sampling)
    # One row stays in a processor's cache.
    rows = zip(logits.split(1), uniform.split(1), strict=True)
    return torch.cat([_sample(row, drawn, sampling) for row, drawn in rows])


def _sample(
    logits: Float[Tensor, "batch vocab"], uniform: Float64[Tensor, " batch"], sampling: Sampling
) -> Int[Tensor, " batch"]:
    """Sample without sorting a large vocabulary, unless rounding could make a difference."""
    truncated = _truncated(logits, sampling)
    if truncated is None:
        return _invert(_sorted(logits, sampling), uniform)[0]
    tokens, clear = _invert(truncated.masses, uniform)
    if truncated.ids is not None:
        tokens = truncated.ids.gather(-1, tokens[:, None])[:, 0]
    doubtful = (~(truncated.sure & clear)).nonzero()[:, 0]
    if len(doubtful):
        tokens[doubtful] = _invert(_sorted(logits[doubtful], sampling), uniform[doubtful])[0]
    return tokens


def _truncated(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Truncated | None:
    """The masses of what is kept, found without a sort; None where sorting is no slower, or nothing is cut off."""
    temperature, top_k, top_p = sampling.temperature, sampling.top_k, sampling.top_p
    vocab = logits.shape[-1]
    if vocab >= LARGE_VOCABULARY and 0 < top_k <= vocab // 8:
        return truncate_to_highest(logits, temperature, top_k, top_p)
    if vocab >= LARGE_VOCABULARY and not top_k and top_p < 1 and len(logits) == 1 and can_choose(logits).all():
        return truncate_to_nucleus(logits, temperature, top_p)
    return None


def _sorted(logits: Float[Tensor, "batch vocab"], sampling: Sampling) -> Float64[Tensor, "batch vocab"]:
    """The masses of what is kept, by sorting all scores where something is cut off."""
    scores = logits.to(torch.float64, copy=True).div_(sampling.temperature)
    if sampling.top_k or sampling.top_p < 1:
        return truncate(scores, sampling.top_k, sampling.top_p).masses
    return scores.softmax(-1)


def _invert(
    masses: Float64[Tensor, "batch tokens"], uniform: Float64[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Bool[Tensor, " batch"]]:
    """The token at which each row's cumulative distribution passes `uniform`; True where rounding leaves no doubt.

    The masses are overwritten.
    """
    cumulative = masses.cumsum_(-1)
    total = cumulative[:, -1]
    # Just below the total, or rounding could pass the last token that has any probability.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))[:, None]
    # Where a mass is NaN nothing passes.
    places = torch.searchsorted(cumulative, target, right=True).clamp_(max=cumulative.shape[-1] - 1)
    around = cumulative.gather(-1, torch.cat([places, (places - 1).clamp_(min=0)], -1))
    return places[:, 0], ((around - target).abs() > ROUNDING * total[:, None]).all(-1)
