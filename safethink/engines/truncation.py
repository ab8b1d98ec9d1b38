# pyright: standard
"""Truncation to the likeliest tokens, top-k and nucleus, without sorting a large vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

ROUNDING: Final = 1e-9
"""Probabilities closer than this are compared as a sort of all scores rounds them.

Two sums of 10^6 numbers in float64, in whatever orders, differ by less than 10^-9 of either.
"""
BLOCK: Final = 128
"""Tokens whose highest score stands for them where the top k are looked for."""
BINS_PER_NAT: Final = 64
"""Resolution of the histogram that a nucleus is found by."""
NUM_BINS: Final = 64 * BINS_PER_NAT
"""The last has all tokens less than e^-64 as likely as the likeliest."""


@dataclass(frozen=True, slots=True, eq=False)
class Truncated:
    """The tokens that truncation keeps of each row of a batch, by their masses.

    Attributes:
        masses: of tokens in the order of the vocabulary, in any unit; 0 for those that are cut off.
        sure: whether rounding leaves no doubt of which are cut off.
        ids: which tokens they are; None where they are the whole vocabulary.
    """

    masses: Float64[Tensor, "batch tokens"]
    sure: Bool[Tensor, " batch"]
    ids: Int[Tensor, "batch tokens"] | None = None


def truncate(scores: Float64[Tensor, "batch tokens"], top_k: int, top_p: float) -> Truncated:
    """Cut off what top-k and nucleus sampling leave out, in that order, by sorting all scores.

    The nucleus is the smallest set of likeliest tokens whose mass reaches `top_p` (Holtzman et al., arXiv 1904.09751,
    section 3.1). Of equal scores the first in the vocabulary counts as the likeliest.

    Args:
        scores: logits over the temperature.
        top_k: number of tokens kept; 0 for all.
        top_p: mass of the nucleus among them; 1 for all.
    """
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    if top_k:
        ordered[:, top_k:] = -torch.inf
    probabilities = ordered.softmax(-1)
    mass_before = probabilities.cumsum(-1) - probabilities
    # The likeliest token always stays; rounding may leave mass_before of the others a hair below 1.
    ordered = ordered.masked_fill(mass_before >= top_p, -torch.inf) if top_p < 1 else ordered
    kept = torch.empty_like(scores).scatter_(-1, order, ordered)
    return Truncated(kept.softmax(-1), _apart(mass_before[:, : top_k or None], top_p))


def truncate_to_highest(
    logits: Float[Tensor, "batch vocab"], temperature: float, top_k: int, top_p: float
) -> Truncated:
    """Cut off what top-k and nucleus sampling leave out, by sorting little more than the `top_k` highest logits.

    Args:
        logits: at least `top_k` in each row.
        temperature: above 0.
        top_k: number of tokens kept, at least one.
        top_p: mass of the nucleus among them; 1 for all.
    """
    values, ids = highest(logits, top_k)
    return replace(truncate(values.double() / temperature, top_k, top_p), ids=ids)


def highest(
    logits: Float[Tensor, "batch vocab"], top_k: int
) -> tuple[Float[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
    """A few logits of each row, the `top_k` highest and all equal ones among them, and their tokens.

    They stand in the order of the vocabulary, with -inf behind them.

    Args:
        logits: at least `top_k` in each row.
        top_k: at least one.
    """
    rows, tokens = candidates(logits, top_k)
    counts = torch.bincount(rows, minlength=len(logits))
    places = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[rows]
    shape = len(logits), max(top_k, int(counts.max()))
    values, ids = logits.new_full(shape, -torch.inf), tokens.new_zeros(shape)
    values[rows, places], ids[rows, places] = logits[rows, tokens], tokens
    return values, ids


def candidates(
    logits: Float[Tensor, "batch vocab"], top_k: int
) -> tuple[Int[Tensor, "candidates"], Int[Tensor, "candidates"]]:
    """Rows and tokens of a few logits, in order: those at least as high as the `top_k`-th highest of their row.

    Below the k-th highest of the maxima of blocks of tokens there is none of the k highest, and few blocks reach it.

    Args:
        logits: at least `top_k` in each row.
        top_k: at least one.
    """
    vocab = logits.shape[-1]
    size = max(1, min(BLOCK, vocab // (8 * top_k)))
    whole = vocab // size * size
    maxima = logits[:, :whole].unflatten(-1, (-1, size)).amax(-1)
    if whole < vocab:
        maxima = torch.cat([maxima, logits[:, whole:].amax(-1, keepdim=True)], dim=-1)
    bound = maxima.topk(top_k).values[:, -1:]
    # What is unequal may be equal once it is divided by a temperature and rounded.
    bound -= 4 * torch.finfo(bound.dtype).eps * bound.abs()
    rows, blocks = (maxima >= bound).nonzero(as_tuple=True)
    rows, tokens = rows[:, None], blocks[:, None] * size + torch.arange(size, device=blocks.device)
    found = (logits[rows, tokens.clamp(max=vocab - 1)] >= bound[rows[:, 0]]) & (tokens < vocab)
    return rows.expand_as(tokens)[found], tokens[found]


def truncate_to_nucleus(logits: Float[Tensor, "1 vocab"], temperature: float, top_p: float) -> Truncated:
    """Cut off what nucleus sampling leaves out of one row, by sorting what lies around the nucleus' edge alone.

    A histogram of the mass over the logits, from the highest down, shows the interval with the edge.

    Args:
        logits: the highest of them finite.
        temperature: above 0.
        top_p: mass of the nucleus, below 1.
    """
    # Rounded, but never out of order.
    bins = (logits.max() - logits[0]).mul_(BINS_PER_NAT / temperature).clamp_(max=NUM_BINS - 1).int()
    masses = logits[0].to(torch.float64, copy=True).div_(temperature)
    masses.sub_(masses.max()).exp_()
    down_to = torch.bincount(bins, masses, minlength=NUM_BINS).cumsum(0)
    total = down_to[-1]
    last = int((down_to < top_p * total).sum())
    within, scores, ids = bins <= last, logits[0], None
    if int(within.count_nonzero()) <= len(within) // 8:
        # Few are looked at alone; a list of many would cost more than zeros for all others.
        ids = within.nonzero()[:, 0]
        masses, bins, scores = masses[ids], bins[ids], scores[ids]
    else:
        masses.mul_(within)
    edge = (bins == last).nonzero()[:, 0]
    edge = edge[(scores[edge].double() / temperature).sort(descending=True, stable=True).indices]
    around = masses[edge]
    mass_before = around.cumsum(0) - around + (down_to[last - 1] if last else 0.0)
    masses[edge[mass_before >= top_p * total]] = 0.0
    sure = _apart(torch.cat([mass_before, down_to[last, None]])[None] / total, top_p)
    return Truncated(masses[None], sure, None if ids is None else ids[None])


def _apart(masses: Float64[Tensor, "batch tokens"], top_p: float) -> Bool[Tensor, " batch"]:
    return ((masses - top_p).abs() > ROUNDING).all(-1) if top_p < 1 else torch.ones_like(masses[:, 0], dtype=torch.bool)
