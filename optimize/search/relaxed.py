# pyright: standard
"""PEZ (arXiv 2302.03668): continuous rows, with gradients taken at the tokens that they project to.

Algorithm 1 of the paper, with P the rows, one of which stands for each token:

    P' = the nearest embedding of a token, row by row
    g  = the gradient of the loss at P'
    P  = AdamW(P, g)

The rows remember what gradients said of earlier projections, so that small ones add up until a token changes. One step
is one such update; its projection is the only candidate. Rows whose projection is nothing new for some steps are left
for others, from random tokens.

The same search hardens a soft prefix. The tokens nearest to trained rows are often far from what the rows do, and any
text can be the nearest (arXiv 2112.08348). So PEZ sets out from the rows, and the cheapest projection it passes is the
hard prefix. What it costs more than the rows did is the discretisation gap, to be
reported with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.config import RelaxedConfig
from optimize.search.driver import search
from optimize.search.journal import Journal
from optimize.search.method import MAX_DRAWS, Alphabet, Archive, Ids, Priced, Scored, first_survivor, random_prefixes

MOMENTS = "adamw."
"""Key prefix of AdamW's tensors in the state."""


@runtime_checkable
class Relaxable(Priced, Protocol):
    """Objective over embedding rows too."""

    def soft_loss(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Cost of embedding rows in place of tokens; gradients flow to them."""
        ...


@runtime_checkable
class Embeddings(Protocol):
    """The embeddings of the tokens that a prefix may be made of."""

    @property
    def units(self) -> Float[Tensor, " #hidden"]:
        """Powers of two that bring the parts of a row to one scale; a single 1 for rows of one part."""
        ...

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input rows of token ids."""
        ...

    def nearest(self, rows: Float[Tensor, "rows hidden"]) -> Ids:
        """The token whose embedding points most nearly where each row does."""
        ...


class Relaxed:
    """Moves rows, and proposes what they project to.

    Args:
        config: how long, how fast, how patient.
        objective: gives the gradients.
        vocabulary: what prefixes are made of.
        start: what the first start begins with; filled up to the length.
        archive: what was tried so far.
        embeddings: what rows are projected to.
        rows: what to start from in place of tokens, and nothing else; None for a search of its own.
    """

    def __init__(
        self,
        config: RelaxedConfig,
        objective: Relaxable,
        vocabulary: Alphabet,
        start: Ids,
        archive: Archive,
        embeddings: Embeddings,
        rows: Float[Tensor, "length hidden"] | None = None,
    ) -> None:
        self._config, self._objective, self._vocabulary = config, objective, vocabulary
        self._start, self._archive, self._embeddings = start, archive, embeddings
        self._allowed = torch.tensor(vocabulary.allowed)
        self._has_one_start = rows is not None
        self._restart = self._stale = 0
        self._ids: Ids = ()
        self._begin(torch.zeros(1, 1) if rows is None else rows)

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Projection of the rows after the next step, or at the beginning of a start; nothing without a start."""
        if self._stale > self._config.patience:
            self._leave()
            if self._has_one_start:
                return []
        if self._ids:
            self._descend()
        elif not self._has_one_start:
            kept = self._start if self._restart == 0 else ()
            drawn = random_prefixes(self._allowed, self._config.length, MAX_DRAWS, generator, kept)
            begun = first_survivor(drawn, self._vocabulary, self._archive)
            if not begun:
                return []
            self._begin(self._embeddings.rows(begun[0]))
        self._ids = self._embeddings.nearest(self._rows)
        self._stale = self._stale + 1 if self._ids in self._archive else 0
        return [self._ids]

    def observe(self, scored: Sequence[Scored]) -> None:
        """Learn nothing from it: only gradients say where to go."""

    def state_dict(self) -> dict[str, Any]:
        """The start, the rows, and AdamW's rate and moments."""
        adamw = self._optimizer.state_dict()
        moments: dict[str, Tensor] = adamw["state"].get(0, {})
        return {
            "restart": self._restart,
            "stale": self._stale,
            "ids": self._ids,
            "rows": self._rows,
            "rate": adamw["param_groups"][0]["lr"],
        } | {MOMENTS + name: moment.clone() for name, moment in moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._restart, self._stale, self._ids = state["restart"], state["stale"], tuple(state["ids"])
        self._begin(state["rows"])
        moments = {name.removeprefix(MOMENTS): each for name, each in state.items() if name.startswith(MOMENTS)}
        groups = self._optimizer.state_dict()["param_groups"]
        groups[0]["lr"] = state["rate"]
        self._optimizer.load_state_dict({"state": {0: moments} if moments else {}, "param_groups": groups})

    def _begin(self, rows: Float[Tensor, "length hidden"]) -> None:
        """Take rows as they are, with an optimizer that has seen nothing.

        Rows of twice the length need steps of twice the size to turn as far, and only where they point counts.
        """
        even = rows.detach().float() / self._embeddings.units.to(rows.device)
        rate = self._config.learning_rate * even.square().mean().sqrt().item()
        self._even = even.cpu().clone().requires_grad_()
        self._optimizer = torch.optim.AdamW([self._even], lr=rate, weight_decay=self._config.weight_decay)

    @property
    def _rows(self) -> Float[Tensor, "length hidden"]:
        """Rows at their present values; AdamW moves them with all parts brought to one scale."""
        return self._even.detach() * self._embeddings.units

    def _leave(self) -> None:
        """Leave these rows for other ones."""
        self._restart, self._stale, self._ids = self._restart + 1, 0, ()

    def _descend(self) -> None:
        """One step of AdamW on the rows, with the gradient at their projection."""
        projected = self._embeddings.rows(self._ids).detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(self._objective.soft_loss(projected), projected)
        self._even.grad = gradient.to(self._even) * self._embeddings.units
        self._optimizer.step()


@dataclass(frozen=True, slots=True)
class Hardened:
    """A hard prefix in the place of a soft one.

    Attributes:
        ids: the cheapest projection that is the same ids after being written down and read again.
        cost: what it costs.
        soft_cost: what the rows cost.
        nearest: the tokens nearest to the rows, with which the search began.
        nearest_cost: what they cost; infinite where they are not the same ids after being written down and read again.
        archive: every projection that was tried.
    """

    ids: Ids
    cost: float
    soft_cost: float
    nearest: Ids
    nearest_cost: float
    archive: Archive

    @property
    def gap(self) -> float:
        """The discretisation gap: what the tokens cost more than the rows."""
        return self.cost - self.soft_cost


def harden(
    rows: Float[Tensor, "length hidden"],
    objective: Relaxable,
    vocabulary: Alphabet,
    embeddings: Embeddings,
    config: RelaxedConfig,
    journal: Journal,
    seed: int,
) -> Hardened:
    """Find a hard prefix where a soft one is; a run that was killed goes on to the same result.

    Args:
        rows: the soft prefix, in the space that the reasoner's layers read.
        objective: what rows and tokens cost. Terms that tell tokens apart, such as readability, are no part of what
            rows cost, and so of the gap.
        vocabulary: what prefixes are made of.
        embeddings: what the rows are projected to.
        config: how often, how fast, how patient; `length` is the number of rows.
        journal: keeps every step.
        seed: of the driver; PEZ draws nothing where its start is given.

    Raises:
        SafeThinkError: no projection is the same ids after being written down and read again.
    """
    assert len(rows) == config.length, "rows and search.length differ"
    with torch.no_grad():
        soft_cost = objective.soft_loss(rows).item()
    method = Relaxed(config, objective, vocabulary, (), journal.archive, embeddings, rows)
    archive = search(objective, vocabulary, method, config, journal, seed)
    best, nearest = archive.ranked()[0], embeddings.nearest(rows)
    return Hardened(best, archive.costs[best], soft_cost, nearest, archive.costs[nearest], archive)
