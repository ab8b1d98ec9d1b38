# pyright: standard
"""Protocol of a search method, and what methods share: the archive of what was tried, and where a search starts.

A method proposes candidates and observes what they cost; everything else is the driver's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.config import MethodConfig, SearchSection
from optimize.objectives import Cost
from safethink.errors import ConfigError
from safethink.tokens import is_soft

Ids: TypeAlias = tuple[int, ...]

MAX_DRAWS = 256
"""Random prefixes looked at before giving up on finding one that survives."""
BLOCK = 32
"""Prefixes that are written down and read again at once."""


@runtime_checkable
class Priced(Protocol):
    """Objective that prices candidates."""

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice: what a budget is spent on."""
        ...

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """Costs of all candidates, which may differ in length.

        Args:
            candidates: token ids.
            incumbent: what a candidate has to beat; None for nothing.
        """
        ...


@runtime_checkable
class Searchable(Priced, Protocol):
    """Objective with a coordinate gradient."""

    def coordinate_gradient(
        self, prefix: Int[Tensor, "length"], allowed: Int[Tensor, "allowed"]
    ) -> Float[Tensor, "length allowed"]:
        """Coordinate gradient: first-order change of the cost by each allowed token at each place."""
        ...


@runtime_checkable
class OnPolicy(Protocol):
    """An objective that changes with where the search stands; what it has drawn there is its state."""

    def move_to(self, prefix: Ids) -> None:
        """Take note of the incumbent; once per step, before anything is asked."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State to resume from, as values that JSON can hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


@runtime_checkable
class Alphabet(Protocol):
    """Vocabulary that prefixes are made of."""

    allowed: tuple[int, ...]

    def survive(self, candidates: Sequence[Ids]) -> list[bool]:
        """Mask of the candidates whose ids survive a round trip through text."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prefix."""
        ...


@runtime_checkable
class Wording(Alphabet, Protocol):
    """An alphabet that reads texts."""

    def ids(self, text: str) -> Ids:
        """The token ids of a text, none of them a control token."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """An alphabet that says why a candidate does not survive."""

    def complaint(self, ids: Ids) -> str:
        """The reason why it does not; empty for one that does."""
        ...


@dataclass(frozen=True, slots=True)
class Scored:
    """A candidate and what it costs.

    Attributes:
        ids: the candidate.
        cost: its total cost.
        terms: the cost, term by term, `total` among them.
        exact: whether it was scored on every context; a method is shown none that were not.
    """

    ids: Ids
    cost: float
    terms: dict[str, float]
    exact: bool = True


@runtime_checkable
class Method(Protocol):
    """One way of searching. Its whole memory is its state, so a search can be killed after any step.

    The driver calls `propose`, drops what was tried before and what does not survive being written down and read
    again, scores the first `candidates` of the rest, and calls `observe`. A method never scores anything itself; it
    may ask the objective for gradients.
    """

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Candidates to score, the most promising first; empty when there is nothing left to try.

        Args:
            generator: the only source of randomness; seeded anew for every step.
        """
        ...

    def observe(self, scored: Sequence[Scored]) -> None:
        """Take note of what was scored of the last proposals; empty where none survived.

        The incumbent may be among them, where it was scored once more beside the others: that cost replaces the old.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """State to resume from: tensors, and values that JSON can hold."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ...


@runtime_checkable
class Adaptive(Protocol):
    """A method that says how many of its proposals are worth scoring."""

    @property
    def num_to_score(self) -> int:
        """Number of candidates to score of the next proposals; never more than the configuration says are."""
        ...


class Schedule:
    """Counts what a method's steps take, as the driver does.

    Args:
        config: how many steps and tokens there are.
        objective: forwards the tokens.
    """

    def __init__(self, config: SearchSection, objective: Searchable) -> None:
        self._config, self._objective = config, objective
        self._steps = self._tokens = 0
        self._seen = objective.tokens

    @property
    def share(self) -> float:
        """Share of the search that is over: of its steps or of its tokens, whichever is more."""
        budget = self._config.budget_tokens
        return max(self._steps / self._config.steps, 0.0 if budget is None else self._tokens / budget)

    def step(self) -> None:
        """Note that a step is done; to be called whenever a method observes."""
        self._steps += 1
        self._tokens += self._objective.tokens - self._seen
        self._seen = self._objective.tokens

    def state_dict(self) -> dict[str, int]:
        """Steps and tokens."""
        return {"steps": self._steps, "tokens": self._tokens}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a state."""
        self._steps, self._tokens = state["steps"], state["tokens"]


@dataclass
class Archive:
    """Every candidate that was looked at, in order; no candidate is scored twice.

    Attributes:
        costs: what each one costs in total; infinite for one that is not the same ids after being written down and
            read again.
        estimated: those that racing dropped early, whose cost is that of few contexts.
    """

    costs: dict[Ids, float] = field(default_factory=dict[Ids, float])
    estimated: set[Ids] = field(default_factory=set[Ids])

    def __contains__(self, ids: object) -> bool:
        return ids in self.costs

    def __len__(self) -> int:
        return len(self.costs)

    def bury(self, dead: Iterable[Ids]) -> None:
        """Note candidates that do not survive being written down and read again."""
        self.costs |= dict.fromkeys(dead, math.inf)

    def add(self, candidates: Sequence[Ids], costs: Sequence[float], exact: Sequence[bool]) -> None:
        """Note what candidates cost.

        Args:
            candidates: what was scored.
            costs: their total costs.
            exact: which of them were scored on every context.
        """
        self.costs |= dict(zip(candidates, costs, strict=True))
        self.estimated |= {ids for ids, is_exact in zip(candidates, exact, strict=True) if not is_exact}

    def ranked(self, shortest: int = 1) -> list[Ids]:
        """All candidates that survive, cheapest first; those with an estimated cost come after all others.

        Args:
            shortest: candidates of fewer tokens are left out: steps on the way to a longer prefix.
        """
        alive = [ids for ids, cost in self.costs.items() if cost < math.inf and len(ids) >= shortest]
        return sorted(alive, key=lambda ids: (ids in self.estimated, self.costs[ids]))


def start_ids(init_ids: Ids | None, config: MethodConfig) -> Ids:
    """Token ids that the first start begins with; none for a random start, or a method that begins nowhere.

    Args:
        init_ids: `config.init` as token ids; None where there is none.
        config: the search's section.

    Raises:
        ConfigError: the init text is longer than the prefix may be, or rows are to start a search over tokens.
    """
    if not config.begins_with_init:
        return ()
    if init_ids is not None and config.kind != "soft" and any(map(is_soft, init_ids)):
        raise ConfigError(f"search.init: {config.init!r} is a soft prefix, from which only search.kind soft starts")
    if init_ids is not None and len(init_ids) > config.length:
        raise ConfigError(
            f"search.init: {config.init!r} has {len(init_ids)} tokens, search.length is {config.length}; "
            "give a shorter text, or null for random tokens"
        )
    return init_ids or ()


def random_prefixes(
    allowed: Int[Tensor, "allowed"], length: int, count: int, generator: torch.Generator, kept: Ids = ()
) -> list[Ids]:
    """Random prefixes, each different; first `kept` filled up with random tokens, where something is kept.

    Args:
        allowed: ids that may take a place.
        length: number of tokens.
        count: how often to draw.
        generator: the source of randomness.
        kept: how the first ones begin.
    """
    draws = torch.randint(len(allowed), (count, length), generator=generator)
    randoms: list[Ids] = [tuple(ids) for ids in allowed[draws].tolist()]
    filled = [kept + ids[len(kept) :] for ids in randoms] if kept else []
    return list(dict.fromkeys([*filled, *randoms]))


def first_survivor(candidates: Sequence[Ids], vocabulary: Alphabet, archive: Archive) -> list[Ids]:
    """The first candidate that was never tried and is the same ids after being read again; empty without one."""
    untried = [ids for ids in candidates if ids not in archive]
    for start in range(0, len(untried), BLOCK):
        block = untried[start : start + BLOCK]
        alive = [ids for ids, survives in zip(block, vocabulary.survive(block), strict=True) if survives]
        if alive:
            return alive[:1]
    return []
