# pyright: standard
"""SPMD scoring: the same scorer in every process, each with its share of the contexts.

Whoever makes or calls a scorer in the main process is heard by the others, which make the same scorer and the same call
(`optimize.scoring.scorer`). Both lead to the same sums over processes; what a call returns is of use in the main one.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.parallel.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Made:
    """A scorer was made.

    Attributes:
        number: what it is called from now on.
        arguments: of its constructor, but for the model and the cluster.
        forgotten: scorers that are no longer there.
    """

    number: int
    arguments: tuple[Any, ...]
    forgotten: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Called:
    """A method of a scorer was called.

    Attributes:
        number: of the scorer.
        method: its name.
        arguments: of the call; of a soft method, the rows alone.
        graph: what a soft call is called when gradients flow back; None where none will.
    """

    number: int
    method: str
    arguments: tuple[Any, ...]
    graph: int | None = None


@dataclass(frozen=True, slots=True)
class FlowsBack:
    """The gradient of what a soft call gave is known.

    Attributes:
        graph: of the call.
        gradient: with respect to its result.
    """

    graph: int
    gradient: Float[Tensor, "contexts"]


class Lockstep:
    """SPMD calls of a scorer: the same scorers in the other processes follow; without any, this does nothing.

    Args:
        scorer: that of this process.
        arguments: of its constructor, but for the model and the cluster.
        cluster: the processes.
    """

    def __init__(self, scorer: object, arguments: tuple[Any, ...], cluster: Cluster) -> None:
        self._cluster, self._number = cluster, cluster.next_number()
        cluster.tell(Made(self._number, arguments, cluster.forget()))
        weakref.finalize(scorer, cluster.forgotten.append, self._number)

    def call(self, method: str, *arguments: Any) -> None:
        """Let the other processes make the same call."""
        self._cluster.tell(Called(self._number, method, _on_cpu(arguments)))

    def call_soft(self, method: str, rows: Float[Tensor, "length hidden"]) -> int | None:
        """Let the other processes make the same call with embedding rows; the number is for `merge`."""
        graph = self._cluster.next_number() if rows.requires_grad and torch.is_grad_enabled() else None
        self._cluster.tell(Called(self._number, method, _on_cpu((rows,)), graph))
        return graph

    def add(self, part: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Sum over the processes (all-reduce), where every number is zero in all of them but one; no gradients."""
        return self._cluster.add(part)

    def fan_out(self, rows: Float[Tensor, "*shape"], count: int) -> Float[Tensor, "count *shape"]:
        """A copy for each of `count` batches, whose gradients are summed in this order, whoever they come from."""
        return _FanOut.apply(rows, count, self._cluster)

    def merge(self, part: Float[Tensor, "*shape"], graph: int | None) -> Float[Tensor, "*shape"]:
        """As `add`, and gradients flow to the parts of all."""
        return _Merge.apply(part, graph, self._cluster)


class _FanOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int, cluster: Cluster) -> Tensor:
        ctx.cluster = cluster
        return rows.expand(count, *rows.shape).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.cluster.add(gradients[0]).sum(0), None, None


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, graph: int | None, cluster: Cluster) -> Tensor:
        ctx.graph, ctx.cluster = graph, cluster
        return cluster.add(part).view_as(part)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        ctx.cluster.tell(FlowsBack(ctx.graph, gradients[0].cpu()))
        return gradients[0], None, None


def _on_cpu(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without gradients and devices, which are a process's own."""
    return tuple(each.detach().cpu() if isinstance(each, Tensor) else each for each in arguments)
