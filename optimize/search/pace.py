"""How far a search has come, for methods that begin one way and end another."""

from __future__ import annotations

from optimize.config import SearchSection
from optimize.search.method import Searchable


class Pace:
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
        """What share of the search is over: of its steps or of its tokens, whichever is more."""
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
