# pyright: standard
"""Checkpoints of a training: every step in the search's journal, and the rows worth trying.

Those are the rows that cost least, the last ones, and some spread over the steps: training loss is no more than a
guide, and early rows, which are still near a text, may well be the better ones on validation. They are rounded to
bfloat16 before anybody tries them, so that what is chosen is what is published, in whatever precision it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from optimize.search.journal import Journal
from optimize.search.method import Alphabet
from optimize.soft.geometry import Surroundings
from optimize.soft.module import SoftPrefix, Trainable

NUM_SPREAD = 8
"""The most rows kept on the way, evenly spread over the steps so far: a budget may end a training long before its last
step."""
MOMENTS = "adamw."
"""Key prefix of the optimizer's tensors in the journal."""

Rows = Float[Tensor, "length hidden"]


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that are worth trying.

    Attributes:
        step: when they were there.
        cost: what they cost then.
        rows: the rows, rounded.
    """

    step: int
    cost: float
    rows: Rows


def spacing(num_steps: int) -> int:
    """Steps between rows that are kept: a power of two, so that what is kept later was kept before."""
    return 2 ** max(0, math.ceil(math.log2(num_steps / NUM_SPREAD)))


class Checkpointer:
    """Checkpointer: writes every step to the journal and resumes from it.

    Args:
        objective: its tokens are counted; what it learned on policy is kept.
        surroundings: describes rows by the tokens near them.
        vocabulary: writes those down.
        journal: where everything goes.

    Attributes:
        state: where the training stands.
        kept: the rows worth trying, oldest first.
    """

    def __init__(
        self,
        objective: Trainable,
        surroundings: Surroundings,
        vocabulary: Alphabet,
        journal: Journal,
    ) -> None:
        self._objective, self._surroundings, self._vocabulary = objective, surroundings, vocabulary
        self._journal = journal
        self.state = journal.resume()
        self.kept: list[Kept] = []
        self._tokens_before = objective.tokens - self.state.tokens

    def resume(self, first: Rows) -> tuple[Rows, dict[str, Tensor]]:
        """The rows and the optimizer's moments to go on from; `first` and none where nothing was trained yet."""
        held = self.state.method
        if not held:
            return first, {}
        self._objective.load_state_dict(self.state.objective)
        # Only now: what was learned on policy was read once more, and counted when it first was.
        self._tokens_before = self._objective.tokens - self.state.tokens
        self.kept = [Kept(*fields) for fields in zip(held["steps"], held["costs"], held["kept"], strict=True)]
        moments = {name.removeprefix(MOMENTS): value for name, value in held.items() if name.startswith(MOMENTS)}
        return held["rows"], moments

    def commit(self, module: SoftPrefix, optimizer: Optimizer) -> None:
        """Write a finished step down.

        Raises:
            RecordError: it could not be written.
        """
        state, cost = self.state, module.cost
        now = Kept(state.step, cost["total"], module.measured.bfloat16().float().cpu())
        state.step += 1
        state.tokens = self._objective.tokens - self._tokens_before
        if now.cost < state.best:
            state.best, state.improved, state.cost = now.cost, state.step, cost
        best, every = min([*self.kept, now], key=lambda kept: kept.cost), spacing(state.step)
        self.kept = [kept for kept in self.kept if kept is best or (kept.step + 1) % every == 0] + [now]
        state.method, state.objective = self._needed(module, optimizer), self._objective.state_dict()
        self._journal.commit(state, self._line(now, cost))

    def _line(self, now: Kept, cost: dict[str, float]) -> dict[str, Any]:
        """The log's line of a step: what the rows cost, how long they are, and which tokens are near."""
        nearest = self._surroundings.nearest(now.rows)
        return {
            "step": now.step,
            "tokens": self.state.tokens,
            "cost": cost,
            "best_cost": self.state.cost,
            "mean_norm": now.rows.norm(dim=1).mean().item(),
            "nearest_ids": nearest,
            "text": self._vocabulary.text(nearest),
            "fingerprint": self._journal.fingerprint,
        }

    def _needed(self, module: SoftPrefix, optimizer: Optimizer) -> dict[str, Any]:
        """All that the next step depends on, and the rows kept."""
        moments = optimizer.state_dict()["state"][0]
        return {
            "rows": module.rows,
            "steps": [kept.step for kept in self.kept],
            "costs": [kept.cost for kept in self.kept],
            "kept": torch.stack([kept.rows for kept in self.kept]),
        } | {MOMENTS + name: moment for name, moment in moments.items()}
