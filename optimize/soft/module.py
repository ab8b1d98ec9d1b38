# pyright: standard
"""Soft rows as a LightningModule: the loss of a step, its optimizer, and the tokens' rows that they lie among.

A row has one part, the embedding, or two where the layers read inputs of their own beside it (see
`safethink.models.input_rows`). These come out of two tables, each with a scale of its own: lengths, angles and steps
are measured part by part.
"""

from __future__ import annotations

import math
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
        """Input rows of token ids."""
        ...

    def row_parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a row, each of which has a scale of its own."""
        ...


class TokenEmbeddings:
    """The input rows of the tokens that a prefix may be made of, as the reasoner's layers read them.

    Args:
        engine: the reasoner's.
        allowed: token ids.

    Attributes:
        typical_norms: median length of each part of a row, the embedding's first.
        typical_size: size of a number in an embedding of typical length.
        units: size of each number of a row as a share of that, to the next power of two, so that nothing is rounded by
            taking it out and in again; a single 1 for rows of one part.
    """

    def __init__(self, engine: Embedder, allowed: Sequence[int]) -> None:
        self._engine, self._allowed, self._parts = engine, tuple(allowed), engine.row_parts()
        some = self._allowed[:: max(1, len(self._allowed) // NUM_MEASURED)]
        measured = engine.rows(some).double().split(self._parts, dim=1)
        self.typical_norms = [part.norm(dim=1).median().item() for part in measured]
        sizes = [norm / part**0.5 for norm, part in zip(self.typical_norms, self._parts, strict=True)]
        self.typical_size = sizes[0]
        self.units: Float[Tensor, " #hidden"] = torch.ones(1)
        if len(sizes) > 1:
            shares = [2.0 ** round(math.log2(max(size, SHORTEST) / max(sizes[0], SHORTEST))) for size in sizes]
            self.units = torch.tensor(shares).repeat_interleave(torch.tensor(self._parts))

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input rows of token ids."""
        return self._engine.rows(ids)

    @torch.no_grad()
    def nearest(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """The token whose embedding points most nearly where each row does, as in PEZ (arXiv 2302.03668).

        Of rows of two parts, the cosines of both are added: what is long in one table outweighs nothing of the other.
        Of equal ones the first that is allowed. All cosines are computed in single precision, and those that could be
        the highest in double. With n products of unit vectors, u half of float32's epsilon, and a few more roundings,

            |computed cosine - cosine| <= (n + 8) u / (1 - (n + 8) u)

        in whatever order they are added (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
        """
        wanted = self._directions(rows.double())
        cosines = torch.cat([self._cosines(wanted, some) for some in self._chunks()], dim=1)
        error = len(self._parts) * (rows.shape[1] + 8) * torch.finfo(torch.float32).eps
        # Written so that where a number is no number, all are looked at.
        likely = ~(cosines < cosines.amax(1, keepdim=True) - 2 * error)
        return tuple(self._best(row, among.nonzero()[:, 0]) for row, among in zip(wanted, likely, strict=True))

    def _cosines(self, wanted: Float64[Tensor, "rows hidden"], some: slice) -> Float[Tensor, "rows some"]:
        """Cosines with the embeddings of some of the allowed tokens, in single precision, added over parts."""
        # Asked for less than single precision, torch gives it, and then the bound does not hold.
        is_single = torch.get_float32_matmul_precision() == "highest"
        embeddings = self._engine.rows(self._allowed[some]).to(torch.float32 if is_single else torch.float64)
        rows, parts = (each.split(self._parts, 1) for each in (wanted.to(embeddings), embeddings))
        lengths = self._lengths[:, some].to(embeddings)
        cosines = [row @ part.T / length for row, part, length in zip(rows, parts, lengths, strict=True)]
        return sum(cosines[1:], cosines[0])

    def _best(self, wanted: Float64[Tensor, " hidden"], places: Int[Tensor, " some"]) -> int:
        """The token nearest to one row among some of the allowed ones, in double precision."""
        cosines: list[Tensor] = []
        for some in places.split(CHUNK):
            embeddings = self._engine.rows([self._allowed[place] for place in some.tolist()]).double()
            # Not by a matrix product, whose sums may differ from column to column: equal embeddings are equally near.
            cosines.append((self._directions(embeddings) * wanted.to(embeddings.device)).sum(1))
        return self._allowed[int(places[torch.cat(cosines).argmax()])]

    def _directions(self, rows: Float64[Tensor, "rows hidden"]) -> Float64[Tensor, "rows hidden"]:
        """Rows with every part of length 1."""
        return torch.cat([functional.normalize(part, dim=1) for part in rows.split(self._parts, 1)], dim=1)

    @cached_property
    def _lengths(self) -> Float64[Tensor, "parts allowed"]:
        """Length of every part of every allowed token's row, never quite 0."""
        lengths = [self._norms(self._engine.rows(self._allowed[some]).double()) for some in self._chunks()]
        return torch.cat(lengths, dim=1).clamp_(min=SHORTEST)

    def _norms(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, "parts rows"]:
        return torch.stack([part.norm(dim=1) for part in rows.split(self._parts, 1)])

    def _chunks(self) -> list[slice]:
        return [slice(start, start + CHUNK) for start in range(0, len(self._allowed), CHUNK)]

    def excess(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """Norm penalty: mean over rows, and over their parts, of max(0, |part| / typical norm - 1)^2.

        Nothing for shorter ones. A row far outside the embeddings leans on what the layers do where nothing was
        trained, and has no token near it.
        """
        norms = zip(self._norms(rows), self.typical_norms, strict=True)
        beyond = [norm / max(typical, SHORTEST) - 1 for norm, typical in norms]
        return torch.stack(beyond).clamp(min=0).square().mean()


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
        surroundings: how long the reasoner's own rows are, and how large the numbers of each part.
        config: rates and weights.
        moments: AdamW's state, by name, to go on from; empty at the start.

    Attributes:
        even: the rows with all parts brought to one scale: what AdamW moves, in steps of one size, and what is clipped.
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
        precise = rows.detach().to(torch.promote_types(rows.dtype, torch.float32), copy=True)
        self._units = surroundings.units.to(precise)
        self.even = Parameter(precise / self._units)
        self._objective, self._surroundings, self._config = objective, surroundings, config
        self._moments = moments
        self.measured = self.rows.detach().clone()
        self.cost: dict[str, float] = {}

    @property
    def rows(self) -> Float[Tensor, "length hidden"]:
        """Rows at their present values; gradients flow to what is trained."""
        return self.even * self._units

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
        rate = self._config.learning_rate * self._surroundings.typical_size
        optimizer = AdamW([self.even], lr=rate, weight_decay=0.0)
        if self._moments:
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": {0: self._moments}, "param_groups": groups})
        return optimizer
