# pyright: standard
"""Evolution of prefixes along the Pareto front of loss against readability (EPO, arXiv 2402.01702); length may move.

One step:
    1. what is new in the population is read once: the gradient says which substitutes lower its cost, and the reasoner
       which tokens it would say itself at every place;
    2. of two members drawn at random the cheaper one becomes a parent, again and again, and one edit makes its child
       (FLRT, arXiv 2407.17447, section 3.2): a token is replaced, inserted or deleted at random, replaced by one that
       the gradient promises most of, or replaced or inserted as the reasoner would have said it;
    3. the driver scores the children; of parents and children together, the front survives, and where that leaves room
       the front behind it, and so on.

The total cost is one weighing of loss and readability, and a whole front is kept in its place: a prefix that reads well
is a way round a barrier between two that do not, and the other way round. A population that no longer finds anything
cheaper is left for another one, from random tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.config import EvolutionConfig
from optimize.search.edits import edited
from optimize.search.method import Alphabet, Archive, Ids, Scored, Searchable, random_prefixes
from optimize.search.proposals import Proposer


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
    """Pareto front of loss and NLL, from the least loss to the least NLL.

    One beats another if it is nowhere worse and somewhere better. Of two that are equal in both, the first stays.
    """
    kept: list[Member] = []
    for member in sorted(members, key=lambda member: (member.loss, member.nll)):
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
    cheapest = min(kept, key=lambda member: member.cost)
    widths = [abs(kept[-1].loss - kept[0].loss) or 1.0, abs(kept[-1].nll - kept[0].nll) or 1.0]
    while len(kept) > size:
        room = {place: _room(kept, place, widths) for place, each in enumerate(kept) if each is not cheapest}
        del kept[min(room, key=room.__getitem__)]
    return kept


def _room(front: Sequence[Member], place: int, widths: Sequence[float]) -> float:
    """Crowding distance (NSGA-II): the gap between neighbours, each axis by its width; infinite at the ends."""
    if place in (0, len(front) - 1):
        return math.inf
    before, after = front[place - 1], front[place + 1]
    return (after.loss - before.loss) / widths[0] + (before.nll - after.nll) / widths[1]


NLL = "nll"
"""The name of the readability term."""
CHILDREN_PER_CANDIDATE = 4
"""Children made for each one that is to be scored: many were tried, or are not the same ids after being read again."""
EDITS = ("replace", "insert", "delete", "gradient", "reasoner")


@runtime_checkable
class Composed(Searchable, Protocol):
    """Objective that names the weights of its terms."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The factor of every term in the total."""
        ...


@dataclass(frozen=True, slots=True)
class Hints:
    """Substitutions proposed for one prefix.

    Attributes:
        promising: at every place, the tokens that the gradient promises most of.
        likely: at every place and behind the last one, the tokens that the reasoner would say likeliest.
        log_probs: how likely each of them is.
    """

    promising: Int[Tensor, "length top"]
    likely: Int[Tensor, "gaps top"]
    log_probs: Float[Tensor, "gaps top"]


class Evolution:
    """Breeds a population of prefixes.

    Args:
        config: how many, how long, how patient.
        objective: gives the gradients, and the weight of readability; where that is 0, loss
            alone decides who survives.
        vocabulary: what prefixes are made of.
        start: what the first prefixes begin with.
        archive: what was tried so far.
        proposer: says what the reasoner would say.
    """

    def __init__(
        self,
        config: EvolutionConfig,
        objective: Composed,
        vocabulary: Alphabet,
        start: Ids,
        archive: Archive,
        proposer: Proposer,
    ) -> None:
        self._config, self._objective, self._proposer = config, objective, proposer
        self._start, self._archive = start, archive
        self._allowed = torch.tensor(vocabulary.allowed)
        self._restart = self._stale = 0
        self._population: list[Member] = []
        self._hints: dict[Ids, Hints] = {}

    @property
    def tokens(self) -> int:
        """Tokens forwarded to hear what the reasoner would say."""
        return self._proposer.tokens

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Children of the population; where there is none, or it is exhausted, the beginnings of another one."""
        if self._stale > self._config.patience:
            self._leave()
        if self._population:
            self._read_new()
            if children := self._children(generator):
                return children
            self._leave()
        return self._beginnings(generator)

    def observe(self, scored: Sequence[Scored]) -> None:
        """Take children into the population, and let go of those that are beaten most."""
        weight = self._objective.weights.get(NLL, 0.0)
        best = self._cheapest()
        born = [_member(candidate, weight) for candidate in scored]
        self._population = survivors([*self._population, *born], self._config.population)
        self._stale = 0 if self._cheapest() < best else self._stale + 1
        living = {member.ids for member in self._population}
        self._hints = {ids: hints for ids, hints in self._hints.items() if ids in living}

    def state_dict(self) -> dict[str, Any]:
        """The population, and what was read of it."""
        rows = [tensor for hints in self._hints.values() for tensor in (hints.promising, hints.likely)]
        none = torch.empty(0, 0)
        return {
            "restart": self._restart,
            "stale": self._stale,
            "population": [[member.ids, member.cost, member.loss, member.nll] for member in self._population],
            "read": list(self._hints),
            "tokens": torch.cat(rows) if rows else none.long(),
            "log_probs": torch.cat([hints.log_probs for hints in self._hints.values()]) if rows else none,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._restart, self._stale = state["restart"], state["stale"]
        self._population = [Member(tuple(ids), *numbers) for ids, *numbers in state["population"]]
        read: list[Ids] = [tuple(ids) for ids in state["read"]]
        tokens = state["tokens"].split([size for ids in read for size in (len(ids), len(ids) + 1)])
        log_probs = state["log_probs"].split([len(ids) + 1 for ids in read])
        hints = map(Hints, tokens[::2], tokens[1::2], log_probs)
        self._hints = dict(zip(read, hints, strict=True))

    def _cheapest(self) -> float:
        return min((member.cost for member in self._population), default=math.inf)

    def _leave(self) -> None:
        """Leave this population for another one."""
        self._restart, self._stale = self._restart + 1, 0
        self._population, self._hints = [], {}

    def _beginnings(self, generator: torch.Generator) -> list[Ids]:
        """The start as it is and filled up with random tokens, or random prefixes, of which the front remains."""
        kept = self._start if self._restart == 0 else ()
        count = CHILDREN_PER_CANDIDATE * self._config.candidates
        drawn = random_prefixes(self._allowed, self._config.length, count, generator, kept)
        begun = [kept, *drawn] if len(kept) >= self._config.min_length else drawn
        return [ids for ids in begun if ids not in self._archive]

    def _read_new(self) -> None:
        """Read those members of which nothing is known yet."""
        new = [member.ids for member in self._population if member.ids not in self._hints]
        num_top = min(self._config.top_k, len(self._allowed))
        for ids, next_tokens in zip(new, self._proposer.next_tokens(new, everywhere=True), strict=True):
            gradient = self._objective.coordinate_gradient(torch.tensor(ids), self._allowed)
            likely = next_tokens.topk(num_top)
            promising = self._allowed[gradient.topk(num_top, largest=False).indices]
            self._hints[ids] = Hints(promising, self._allowed[likely.indices], likely.values)

    def _children(self, generator: torch.Generator) -> list[Ids]:
        """Children that were never tried."""
        dice = random.Random(torch.randint(2**62, (), generator=generator).item())
        parents = [
            min(dice.choices(self._population, k=2), key=lambda member: member.cost).ids
            for _ in range(CHILDREN_PER_CANDIDATE * self._config.candidates)
        ]
        children = dict.fromkeys(self._child(ids, dice) for ids in parents)
        return [ids for ids in children if ids not in self._archive]

    def _child(self, ids: Ids, dice: random.Random) -> Ids:
        """One edit, of a kind that keeps the length legal."""
        hints, place, gap = self._hints[ids], dice.randrange(len(ids)), dice.randrange(len(ids) + 1)
        grows, shrinks = len(ids) < self._config.length, len(ids) > self._config.min_length
        anything = int(self._allowed[dice.randrange(len(self._allowed))])
        legal = {"insert": grows, "delete": shrinks}
        match dice.choice([edit for edit in EDITS if legal.get(edit, True)]):
            case "insert":
                return (*ids[:gap], anything, *ids[gap:])
            case "delete":
                return ids[:place] + ids[place + 1 :]
            case "gradient":
                return edited(ids, [(place, int(dice.choice(hints.promising[place])))])
            case "reasoner" if grows and dice.random() < 0.5:
                return (*ids[:gap], _said(hints, gap, dice), *ids[gap:])
            case "reasoner":
                return edited(ids, [(place, _said(hints, place, dice))])
            case _:
                return edited(ids, [(place, anything)])


def _member(scored: Scored, nll_weight: float) -> Member:
    nll = scored.terms.get(NLL, 0.0)
    return Member(scored.ids, scored.cost, scored.cost - nll_weight * nll, nll)


def _said(hints: Hints, gap: int, dice: random.Random) -> int:
    """A token that the reasoner would say there, as often as it would, among the likeliest."""
    return dice.choices(hints.likely[gap].tolist(), hints.log_probs[gap].exp().tolist())[0]
