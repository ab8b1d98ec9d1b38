# pyright: standard
"""A model that is only read: in evaluation mode, its weights without gradients, and as before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def frozen(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode and no gradients for weights; both as before afterwards."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def inference(model: PreTrainedModel) -> Iterator[None]:
    """Frozen, and no gradients for anything else either."""
    # no_grad, not inference_mode: the context cache made here takes part in the gradient later.
    with frozen(model), torch.no_grad():
        yield


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or as they are in float64: losses of a half-precision model are not summed in half."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
