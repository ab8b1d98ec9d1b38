# pyright: standard
"""Processes that share the contexts of a search, and score in lockstep (SPMD).

The main process runs the whole program. The others hold the reasoner and their share of the contexts, hear what the
main one is about to compute, and compute it with it (`optimize.scoring.scorer`). What they find is merged so that the
main one has the same numbers, bit for bit, as if it were alone.

    cluster = launch(config.devices, config.run.reasoner.device)
    if not cluster.is_main:
        serve(model, cluster)       # until the main process ends
        return
    with cluster.leading():
        ...                         # the program, with Scorer(..., cluster=cluster)

Whoever makes or calls a scorer in the main process is heard by the others, which make the same scorer and the same
call. Both lead to the same sums over processes; what a call returns is of use in the main one.
"""

from __future__ import annotations

import itertools
import logging
import os
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from safethink import errors
from safethink.errors import ConfigError
from safethink.models.placement import pick_device

if TYPE_CHECKING:
    from lightning.fabric import Fabric


PATIENCE = timedelta(days=7)
"""Seconds a process waits for the others: the main one may be busy with what it does alone."""


class Cluster:
    """The processes of a search, seen from one of them.

    Args:
        fabric: connects them; None for a single process.

    Attributes:
        forgotten: numbers of what the main process has dropped and the others have not yet.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self._fabric, self._numbers = fabric, itertools.count()
        self.forgotten: list[int] = []

    @staticmethod
    def local() -> Cluster:
        """A single process."""
        return Cluster()

    @property
    def rank(self) -> int:
        """Index of this process."""
        return 0 if self._fabric is None else self._fabric.global_rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return 1 if self._fabric is None else self._fabric.world_size

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that runs the program."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Indices, of `count` pieces of work, that are this process's own."""
        return range(self.rank, count, self.size)

    def add(self, part: Tensor) -> Tensor:
        """The sum over all processes; exact where every number is zero in all of them but one."""
        if self._fabric is None:
            return part
        total = self._fabric.all_reduce(part.detach().clone(), reduce_op="sum")
        assert isinstance(total, Tensor), "a sum of tensors is a tensor"
        return total

    def tell(self, order: object) -> None:
        """Let the other processes hear what comes; only the main one has something to say."""
        if self._fabric is not None and self.is_main:
            self._fabric.broadcast(order)

    def hear(self) -> object:
        """The main process's next message; waits for it."""
        assert self._fabric is not None, "a single process has nobody to listen to"
        return self._fabric.broadcast(None)

    def next_number(self) -> int:
        """A number that nothing else has."""
        return next(self._numbers)

    def forget(self) -> tuple[int, ...]:
        """Keys dropped since this was asked last."""
        dropped = tuple(self.forgotten)
        del self.forgotten[: len(dropped)]
        return dropped

    @contextmanager
    def leading(self) -> Generator[None, None, None]:
        """Let the others go afterwards. After an error they may wait for a result that never comes: they are ended."""
        try:
            yield
            self.tell(None)
        except BaseException:
            for process in getattr(self._fabric and self._fabric.strategy.launcher, "procs", ()):
                process.terminate()
            raise
        finally:
            self.leave()

    def leave(self) -> None:
        """Close the connection, so that its threads do not outlive the process."""
        if self._fabric is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def launch(devices: int, device: str = "auto") -> Cluster:
    """Start the other processes, each of which runs the same command; or join them, under `torchrun`.

    Args:
        devices: processes on this machine, one per GPU, or on the CPU; 1 for those that `torchrun` started.
        device: what the reasoner runs on.

    Raises:
        ConfigError: there are fewer GPUs or cores than that, or `torchrun` started another number.
    """
    on_gpu = pick_device(device).type == "cuda"
    num_local = _num_local(devices)
    _check(num_local, device, on_gpu)
    num_processes = int(os.environ["WORLD_SIZE"]) if _under_torchrun() else num_local
    if num_processes == 1:
        return Cluster.local()
    errors.require("train", "lightning")
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.ddp import DDPStrategy

    # What they have to say of themselves is for those who program with them.
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    fabric = Fabric(
        accelerator="gpu" if on_gpu else "cpu",
        devices=num_local,
        num_nodes=num_processes // num_local,
        strategy=DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo", timeout=PATIENCE),
    )
    fabric.launch()
    return Cluster(fabric)


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _num_local(devices: int) -> int:
    """Processes on this machine."""
    if not _under_torchrun():
        return devices
    started = int(os.environ["LOCAL_WORLD_SIZE"])
    if devices not in (1, started):
        raise ConfigError(f"devices: {devices}, but torchrun started {started} processes on this machine")
    return started


def _check(num_local: int, device: str, on_gpu: bool) -> None:
    """Refuse what does not exist."""
    available = torch.cuda.device_count() if on_gpu else len(os.sched_getaffinity(0))
    if num_local > available:
        raise ConfigError(f"devices: {num_local} processes need as many {'GPUs' if on_gpu else 'cores'}: {available}")
    if num_local > 1 and ":" in device:
        raise ConfigError(f"run.reasoner.device: {device!r} names one device, and {num_local} processes need their own")


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
