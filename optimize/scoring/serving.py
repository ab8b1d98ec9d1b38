# pyright: standard
"""SPMD workers: the scorers of the other processes, which mirror every call of the main one."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from optimize.parallel.cluster import Cluster
from optimize.parallel.lockstep import Called, FlowsBack, Made
from optimize.scoring.scorer import Scorer
from safethink.errors import ConfigError


def serve(model: PreTrainedModel, cluster: Cluster) -> None:
    """Make and call the same scorers as the main process, until it has nothing more to say.

    Args:
        model: the reasoner, the same as there.
        cluster: the processes.
    """
    try:
        _serve(model, cluster)
    finally:
        cluster.leave()


def _serve(model: PreTrainedModel, cluster: Cluster) -> None:
    scorers: dict[int, Scorer] = {}
    graphs: dict[int, tuple[Tensor, Tensor]] = {}
    while (order := cluster.hear()) is not None:
        match order:
            case Made(number, arguments, forgotten):
                for gone in forgotten:
                    scorers.pop(gone, None)
                try:
                    scorers[number] = Scorer(model, *arguments, cluster=cluster)
                except ConfigError:
                    # The main process finds the same, and says so.
                    return
            case Called(number, method, arguments, None):
                getattr(scorers[number], method)(*arguments)
            case Called(number, method, (rows,), int(graph)):
                rows.requires_grad_()
                graphs[graph] = rows, getattr(scorers[number], method)(rows)
            case FlowsBack(graph, gradient):
                rows, values = graphs.pop(graph)
                torch.autograd.grad(values, rows, gradient.to(values.device))
            case _:
                raise AssertionError(f"unknown order {order!r}")
