# pyright: standard
"""Soft rows as a LightningModule: the loss of a step, its optimizer, and the embeddings that the rows lie among."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import Parameter, functional
from torch.optim import AdamW

from optimize.config import SoftConfig

CHUNK = 256
"""Tokens whose embeddings are looked up at once: they stay in a processor's cache."""
SHORTEST = 1e-12
"""Length that shorter embeddings are taken to have, as `torch.nn.functional.normalize` does."""
NUM_MEASURED = 2048
"""Tokens whose length is measured, evenly spread over the vocabulary."""


@runtime_checkable
class Embedder(Protocol):
    """Looks up what a reasoner's layers read for tokens."""

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input embeddings of token ids."""
        ...


class TokenEmbeddings:
    """The embeddings of the tokens that a prefix may be made of, as the reasoner's layers read them.

    Args:
        engine: the reasoner's.
        allowed: token ids.

    Attributes:
        typical_norm: median length of an embedding.
    """

    def __init__(self, engine: Embedder, allowed: Sequence[int]) -> None:
        self._engine, self._allowed = engine, tuple(allowed)
        some = self._allowed[:: max(1, len(self._allowed) // NUM_MEASURED)]
        self.typical_norm = engine.rows(some).double().norm(dim=1).median().item()

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input embeddings of token ids."""
        return self._engine.rows(ids)

    @torch.no_grad()
    def nearest(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """The token whose embedding points most nearly where each row does, as in PEZ (arXiv 2302.03668).

        Of equal ones the first that is allowed. All cosines are computed in single precision, and those that could be
        the highest in double. With n products of unit vectors, u half of float32's epsilon, and a few more roundings,

            |computed cosine - cosine| <= (n + 8) u / (1 - (n + 8) u)

        in whatever order they are added (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        wanted = functional.normalize(rows.double(), dim=1)
        cosines = torch.cat([self._cosines(wanted, some) for some in self._chunks()], dim=1)
        error = (rows.shape[1] + 8) * torch.finfo(torch.float32).eps
        # Written so that where a number is no number, all are looked at.
        likely = ~(cosines < cosines.amax(1, keepdim=True) - 2 * error)
        return tuple(self._best(row, among.nonzero()[:, 0]) for row, among in zip(wanted, likely, strict=True))

    def _cosines(self, wanted: Float64[Tensor, "rows hidden"], some: slice) -> Float[Tensor, "rows some"]:
        """Cosines with the embeddings of some of the allowed tokens, in single precision."""
        # Asked for less than single precision, torch gives it, and then the bound does not hold.
        is_single = torch.get_float32_matmul_precision() == "highest"
        embeddings = self._engine.rows(self._allowed[some]).to(torch.float32 if is_single else torch.float64)
        return wanted.to(embeddings) @ embeddings.T / self._lengths[some].to(embeddings)

    def _best(self, wanted: Float64[Tensor, " hidden"], places: Int[Tensor, " some"]) -> int:
        """The token nearest to one row among some of the allowed ones, in double precision."""
        cosines: list[Tensor] = []
        for some in places.split(CHUNK):
            embeddings = self._engine.rows([self._allowed[place] for place in some.tolist()]).double()
            # Not by a matrix product, whose sums may differ from column to column: equal embeddings are equally near.
            cosines.append((functional.normalize(embeddings, dim=1) * wanted.to(embeddings.device)).sum(1))
        return self._allowed[int(places[torch.cat(cosines).argmax()])]

    @cached_property
    def _lengths(self) -> Float64[Tensor, " allowed"]:
        """Length of every allowed token's embedding, never quite 0."""
        lengths = [self._engine.rows(self._allowed[some]).double().norm(dim=1) for some in self._chunks()]
        return torch.cat(lengths).clamp_(min=SHORTEST)

    def _chunks(self) -> list[slice]:
        return [slice(start, start + CHUNK) for start in range(0, len(self._allowed), CHUNK)]

    def excess(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """Norm penalty: mean over rows of max(0, |row| / typical norm - 1)^2.

        Nothing for shorter ones. A row far outside the embeddings leans on what the layers do where nothing was
        trained, and has no token near it.
        """
        return (rows.norm(dim=1) / self.typical_norm - 1).clamp(min=0).square().mean()


@runtime_checkable
class Trainable(Protocol):
    """Objective over embedding rows."""

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, gradients counted twice: what a budget is spent on."""
        ...

    def soft_loss(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Cost of a soft prefix; gradients flow to its rows."""
        ...

    def move_to(self, prefix: Float[Tensor, "length hidden"]) -> None:
        """Tell what learns on policy where the training stands; once per step, before the loss."""
        ...

    def state_dict(self) -> dict[str, object]:
        """State to resume from: values that JSON can hold."""
        ...

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from a state."""
        ...


class SoftPrefix(LightningModule):
    """Embedding rows that AdamW moves down an objective; the reasoner behind it is no part of the module.

    Args:
        rows: where they begin; trained in single precision or better, whatever the reasoner's is.
        objective: what they cost.
        surroundings: how long the reasoner's own embeddings are.
        config: rates and weights.
        moments: AdamW's state, by name, to go on from; empty at the start.

    Attributes:
        rows: where they are.
        measured: where they were when the last step measured what they cost.
        cost: that, term by term; `total` is what falls.
    """

    def __init__(
        self,
        rows: Float[Tensor, "length hidden"],
        objective: Trainable,
        surroundings: TokenEmbeddings,
        config: SoftConfig,
        moments: dict[str, Tensor],
    ) -> None:
        super().__init__()
        self.rows = Parameter(rows.detach().to(torch.promote_types(rows.dtype, torch.float32), copy=True))
        self._objective, self._surroundings, self._config = objective, surroundings, config
        self._moments = moments
        self.measured = self.rows.detach().clone()
        self.cost: dict[str, float] = {}

    def training_step(self, batch: int, batch_idx: int) -> Float[Tensor, ""]:
        """Measure what the rows cost; a batch is no more than the number of a step, since all contexts take part."""
        self._objective.move_to(self.rows.detach())
        total = self.total(self.rows)
        self.measured = self.rows.detach().clone()
        excess = self._penalty(self.measured).item()
        self.cost = {"total": total.item(), "objective": total.item() - excess, "norm_penalty": excess}
        self.log_dict(self.cost, batch_size=1)
        return total

    def total(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        """Loss of rows: the objective plus the norm penalty."""
        return self._objective.soft_loss(rows) + self._penalty(rows)

    def _penalty(self, rows: Float[Tensor, "length hidden"]) -> Float[Tensor, ""]:
        return self._config.norm_weight * self._surroundings.excess(rows)

    def configure_optimizers(self) -> AdamW:
        """AdamW without decay: what draws rows back to the embeddings is the norm penalty, which says so."""
        # A row of typical length has numbers of this size, whatever the reasoner.
        scale = self._surroundings.typical_norm / self.rows.shape[1] ** 0.5
        optimizer = AdamW([self.rows], lr=self._config.learning_rate * scale, weight_decay=0.0)
        if self._moments:
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": {0: self._moments}, "param_groups": groups})
        return optimizer
