# pyright: standard
"""Protocol of a search method: it proposes candidates and observes what they cost; everything else is the driver's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.config import SearchSection
from optimize.objectives import Cost

Ids: TypeAlias = tuple[int, ...]


@runtime_checkable
class Priced(Protocol):
    """Objective that prices candidates."""

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice: what a budget is spent on."""
        ...

    def cost(self, candidates: Sequence[Ids]) -> Cost:
        """Costs of all candidates, which may differ in length."""
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
