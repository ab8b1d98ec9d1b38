"""The Pareto front of loss against readability, those who survive by it, and a few that stand for all of a front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optimize.search.method import Ids


@dataclass(frozen=True, slots=True)
class Member:
    """A prefix and what it costs.

    Attributes:
        ids: the prefix.
        cost: what the search minimises: loss and weighted NLL together.
        loss: the cost without its readability term.
        nll: the prefix's own negative log-likelihood per token.
    """

    ids: Ids
    cost: float
    loss: float
    nll: float


def front(members: Iterable[Member]) -> list[Member]:
    """Those members that no other one beats in loss and NLL, from the least loss to the least NLL.

    One beats another if it is nowhere worse and somewhere better. Of two that are equal in both, the first stays.
    """
    kept: list[Member] = []
    for member in sorted(members, key=lambda each: (each.loss, each.nll)):
        if not kept or member.nll < kept[-1].nll:
            kept.append(member)
    return kept


def survivors(members: Iterable[Member], size: int) -> list[Member]:
    """The front; then, while there is room, the front of the rest, and so on, of which the last is spread (NSGA-II).

    Args:
        members: each prefix once.
        size: the most survivors.
    """
    rest, kept = list(members), list[Member]()
    while rest and len(kept) < size:
        first = front(rest)
        kept += spread(first, size - len(kept))
        rest = [member for member in rest if member not in first]
    return kept


def spread(front: Sequence[Member], size: int) -> list[Member]:
    """At most `size` members of a front, spread over it.

    One after the other, the member goes whose neighbours are nearest to each other (the crowding distance of NSGA-II,
    IEEE TEC 6(2) 2002, section III-B). The cheapest one always stays, and so do the ends while there is room for them.

    Args:
        front: in the order of `front`.
        size: at least 1.
    """
    kept = list(front)
    if not kept:
        return kept
    cheapest = min(kept, key=lambda each: each.cost)
    widths = [abs(kept[-1].loss - kept[0].loss) or 1.0, abs(kept[-1].nll - kept[0].nll) or 1.0]
    while len(kept) > size:
        room = {place: _room(kept, place, widths) for place, each in enumerate(kept) if each is not cheapest}
        del kept[min(room, key=room.__getitem__)]
    return kept


def _room(front: Sequence[Member], place: int, widths: Sequence[float]) -> float:
    """How far apart a member's neighbours are, each axis as a share of its width; infinite at the ends."""
    if place in (0, len(front) - 1):
        return math.inf
    before, after = front[place - 1], front[place + 1]
    return (after.loss - before.loss) / widths[0] + (before.nll - after.nll) / widths[1]
