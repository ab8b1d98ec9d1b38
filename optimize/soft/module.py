# pyright: standard
"""Soft rows as a LightningModule: the loss of a step, its optimizer, and the embeddings that the rows lie among."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import Parameter, functional
from torch.optim import AdamW

from optimize.config import SoftConfig
from safethink.engines import LocalEngine

CHUNK = 8192
"""Tokens whose embeddings are looked up at once."""
NUM_MEASURED = 2048
"""Tokens whose length is measured, evenly spread over the vocabulary."""


class TokenEmbeddings:
    """The embeddings of the tokens that a prefix may be made of, as the reasoner's layers read them.

    Args:
        engine: the reasoner's.
        allowed: token ids.

    Attributes:
        typical_norm: median length of an embedding.
    """

    def __init__(self, engine: LocalEngine, allowed: Sequence[int]) -> None:
        self._engine, self._allowed = engine, tuple(allowed)
        some = self._allowed[:: max(1, len(self._allowed) // NUM_MEASURED)]
        self.typical_norm = engine.rows(some).double().norm(dim=1).median().item()

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input embeddings of token ids."""
        return self._engine.rows(ids)

    @torch.no_grad()
    def nearest(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """The token whose embedding points most nearly where each row does, as in PEZ (arXiv 2302.03668)."""
        wanted = functional.normalize(rows.double(), dim=1)
        cosines: list[Tensor] = []
        for start in range(0, len(self._allowed), CHUNK):
            embeddings = self._engine.rows(self._allowed[start : start + CHUNK]).double()
            cosines.append(wanted.to(embeddings.device) @ functional.normalize(embeddings, dim=1).T)
        return tuple(self._allowed[index] for index in torch.cat(cosines, dim=1).argmax(1).tolist())

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
