# pyright: standard
"""Device, precision and quantisation of a model's weights."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import Module
from transformers import BitsAndBytesConfig, PreTrainedModel

from safethink.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes a GPU where there is one.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    # Every backend has an error of its own for not being there.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigError(f"no such device: {name!r}") from error
    if device.type == "meta":
        raise ConfigError(f"no such device for weights: {name!r}")
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype | str:
    """The precision called `name`; `auto` keeps the checkpoint's own, but float32 on a CPU, where half is slow."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, name)


def placed(dtype: str, device: torch.device, device_map: str | None, quantization: str | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for precision and device.

    Args:
        dtype: precision of the weights, see `pick_dtype`.
        device: where to.
        device_map: how transformers spreads the layers over several devices; None for `device` alone.
        quantization: `8bit` or `4bit` by bitsandbytes; None for none.
    """
    precision = {"dtype": pick_dtype(dtype, device), "quantization_config": _quantization(quantization, dtype, device)}
    # A map needs accelerate, and one device needs no map: `put` will do.
    mapped = device_map is not None or quantization is not None
    return precision | ({"device_map": device_map or {"": device}} if mapped else {})


def put(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Move a model to `device`, unless it was spread over devices while it was loaded; ready to be run."""
    if getattr(model, "hf_device_map", None) is None:
        # The class's own `to` is typed for quantised models alone.
        Module.to(model, device)
    return model.eval().requires_grad_(False)


def _quantization(name: str | None, dtype: str, device: torch.device) -> BitsAndBytesConfig | None:
    """Configuration of bitsandbytes; None for no quantisation."""
    if name is None:
        return None
    precision = pick_dtype(dtype, device)
    compute = precision if isinstance(precision, torch.dtype) else torch.bfloat16
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def compile_forward(model: PreTrainedModel, backend: str) -> None:
    """Compile the model's forward when it is first called, for all sizes of a batch at once.

    Raises:
        ConfigError: there is no such backend.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(f"no such backend of torch.compile: {backend!r}; there are {', '.join(known)}")
    model.compile(backend=backend, dynamic=True)


@contextmanager
def installed() -> Generator[None, None, None]:
    """Turn a missing package of transformers into the name of the extra that brings it."""
    try:
        yield
    except ImportError as error:
        what = str(error).strip().splitlines()[0]
        raise ConfigError(f"device_map and quantization need the extra 'quantized': {what}") from error
