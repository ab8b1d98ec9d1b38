"""Processes that share the contexts of a search.

Every process runs the same search, from the same seed, and reads its share of the contexts; what they read is merged,
so that all of them see the same numbers, bit for bit, as one process would. Only the main one writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from lightning.fabric import Fabric

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """The processes of a search, seen from one of them.

    Attributes:
        fabric: connects them; None for a single process.
    """

    fabric: Fabric | None = None

    @staticmethod
    def local() -> Cluster:
        """A single process."""
        return Cluster()

    @property
    def rank(self) -> int:
        """Which of the processes this one is."""
        return 0 if self.fabric is None else self.fabric.global_rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.fabric is None else self.fabric.world_size

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` pieces of work are this process's own."""
        return range(self.rank, count, self.size)

    def merge(self, part: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """What all processes have together, where every number is zero in all of them but one.

        Adding zeros is exact, so the order of the sum does not matter. Gradients flow to one's own part.
        """
        return _Merge.apply(part, self)

    def fan_out(self, rows: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "count *shape"]:
        """A copy for each of `count` pieces of work, whose gradients are summed piece by piece over all processes."""
        return _FanOut.apply(rows, count, self)

    def broadcast(self, value: T) -> T:
        """What the main process has here; any Python object."""
        return value if self.fabric is None else self.fabric.broadcast(value)

    def all_reduce(self, part: Tensor) -> Tensor:
        """The sum over all processes; no gradients."""
        if self.fabric is None:
            return part
        total = self.fabric.all_reduce(part.detach().clone(), reduce_op="sum")
        assert isinstance(total, Tensor), "the sum of tensors is a tensor"
        return total


class _Merge(torch.autograd.Function):
    """All processes go on with the same numbers, so each one's part has the gradient that it has at home."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, cluster: Cluster) -> Tensor:
        return cluster.all_reduce(part).view_as(part)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _FanOut(torch.autograd.Function):
    """The gradients of the copies are summed in their order, whoever they come from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, cluster: Cluster) -> Tensor:
        ctx.cluster = cluster
        return rows.expand(count, *rows.shape).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.cluster.all_reduce(grads[0]).sum(0), None, None
