# pyright: standard
"""Edits of a prefix: which a coordinate gradient promises most of, which were tried, and how several go together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optimize.search.method import Archive, Ids, Scored

Edit: TypeAlias = tuple[int, int]
"""A place, and the token that is put there."""


def smooth(
    momentum: Float[Tensor, "..."], gradient: Float[Tensor, "length allowed"], share: float
) -> Float[Tensor, "length allowed"]:
    """A coordinate gradient, smoothed over steps (arXiv 2405.01229).

    Args:
        momentum: of the step before; empty in the first.
        gradient: of this step.
        share: how much of the momentum is kept.
    """
    return share * momentum + (1 - share) * gradient if momentum.numel() else gradient


def tried(ids: Ids, allowed: Int[Tensor, "allowed"], archive: Archive) -> Bool[Tensor, "length allowed"]:
    """Mask of the single edits of a prefix that were tried, the one that changes nothing among them."""
    others = torch.tensor([other for other in archive.costs if len(other) == len(ids)])
    changed = others != torch.tensor(ids)
    neighbours = [others[changed.sum(1) == changed[:, place], place] for place in range(len(ids))]
    return torch.stack([torch.isin(allowed, tokens) for tokens in neighbours])


def promising(
    promise: Float[Tensor, "length allowed"],
    tried: Bool[Tensor, "length allowed"],
    allowed: Int[Tensor, "allowed"],
    top_k: int,
) -> list[Edit]:
    """The `top_k` most promising untried substitutes of every place, place by place.

    Args:
        promise: what putting each token at each place would change, to first order; lower is better.
        tried: edits that are left out.
        allowed: the tokens.
        top_k: how many substitutes of each place.
    """
    values, columns = promise.masked_fill(tried, float("inf")).topk(min(top_k, len(allowed)), largest=False)
    places, ranks = (values < float("inf")).nonzero(as_tuple=True)
    return list(zip(places.tolist(), allowed[columns[places, ranks]].tolist(), strict=True))


def pairs(edits: Sequence[Edit], share: float, generator: torch.Generator) -> list[tuple[Edit, ...]]:
    """Random pairs of edits at different places, so many that they are about a share of all.

    Args:
        edits: single ones.
        share: of pairs among single edits and pairs.
        generator: the source of randomness.
    """
    if not edits:
        return []
    draws = torch.randint(len(edits), (round(len(edits) * share / (1 - share)), 2), generator=generator).tolist()
    return [(edits[a], edits[b]) for a, b in draws if edits[a][0] != edits[b][0]]


def primed(
    num_places: int, tokens: Sequence[int], share: float, others: int, generator: torch.Generator
) -> list[tuple[Edit, ...]]:
    """Random single edits that put one of some tokens somewhere, so many that they are about a share of all.

    Args:
        num_places: length of the prefix.
        tokens: what is put there; one that comes more often is drawn more often.
        share: of these among all edits.
        others: number of the other edits.
        generator: the source of randomness.
    """
    if not tokens:
        return []
    count = round(others * share / (1 - share))
    places = torch.randint(num_places, (count,), generator=generator).tolist()
    drawn = torch.randint(len(tokens), (count,), generator=generator).tolist()
    return [((place, tokens[index]),) for place, index in zip(places, drawn, strict=True)]


def several(edits: Sequence[Edit], places: int, generator: torch.Generator) -> list[tuple[Edit, ...]]:
    """Random groups, as many as there are edits, each of one edit at each of so many different places.

    Args:
        edits: single ones.
        places: how many places each group changes; all of those with an edit where they are fewer.
        generator: the source of randomness.
    """
    tokens: dict[int, list[int]] = {}
    for place, token in edits:
        tokens.setdefault(place, []).append(token)
    known = list(tokens)
    chosen = torch.rand(len(edits), len(known), generator=generator).argsort(1)[:, :places].tolist()
    draws = torch.rand(len(edits), places, generator=generator).tolist()
    groups = (zip((known[index] for index in row), draw, strict=False) for row, draw in zip(chosen, draws, strict=True))
    return [tuple((place, tokens[place][int(at * len(tokens[place]))]) for place, at in group) for group in groups]


def merged(parent: Ids, scored: Sequence[Scored], count: int) -> list[Ids]:
    """The best single edits put together one after the other (I-GCG, arXiv 2405.21018, section 3.3).

    Args:
        parent: what was edited.
        scored: what came of it.
        count: how many of the best single edits take part; of two at the same place, the better one does.
    """
    single = [candidate for candidate in scored if sum(a != b for a, b in zip(parent, candidate.ids, strict=True)) == 1]
    best = sorted(single, key=lambda candidate: candidate.cost)[:count]
    changes: dict[int, int] = {}
    out: list[Ids] = []
    for candidate in best:
        place = next(place for place, token in enumerate(candidate.ids) if token != parent[place])
        if place not in changes:
            changes[place] = candidate.ids[place]
            out.append(edited(parent, tuple(changes.items())))
    return out[1:]


def edited(ids: Ids, edits: Sequence[Edit]) -> Ids:
    """A prefix with some of its tokens replaced."""
    out = list(ids)
    for place, token in edits:
        out[place] = token
    return tuple(out)
