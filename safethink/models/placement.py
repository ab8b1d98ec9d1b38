# pyright: standard
"""Placement of a model's weights: device, precision and quantisation; and estimates of the memory that they take."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import torch
from torch.nn import Module
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from safethink.config import GuardMonitorConfig, ModelSection, ReasonerConfig, RewardMonitorConfig, RunConfig
from safethink.config.monitors import models_of
from safethink.errors import ConfigError
from safethink.models.checkpoint import Checkpoint
from safethink.testbed import folders

PROMPT_TOKENS: Final = 512
"""Assumed length of a prompt, which is not known before it is read."""
STATES_PER_ROW: Final = 8
"""Recurrent states of a row: its own, the prompt's, and those that a rollback may return to."""
LARGE_VOCABULARY: Final = 2**13
"""Tokens from which on an output head takes the time of a forward."""
GIB: Final = 2**30


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
    head = model.get_output_embeddings()
    if head is not None and model.config.get_text_config().vocab_size >= LARGE_VOCABULARY:
        head.register_forward_pre_hook(_contiguous)
    return model.eval().requires_grad_(False)


def _contiguous(head: Module, hidden: tuple[Any, ...]) -> tuple[Any, ...]:
    """The head's inputs, side by side in memory.

    Those of the last tokens of several rows (`logits_to_keep`) are not, and torch then multiplies row by row, reading
    the head's weights as often.
    """
    return tuple(states.contiguous() for states in hidden)


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


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a model: weights, keys and values, recurrent states, logits.

    Attributes:
        weights_bytes: its parameters.
        position_bytes: the keys and values of one position in one row.
        logits_bytes: the logits of one position in one row, in float32.
        state_bytes: the recurrent and convolution states of one row.
    """

    weights_bytes: int
    position_bytes: int
    logits_bytes: int
    state_bytes: int = 0


def footprint(config: ReasonerConfig | ModelSection) -> Footprint | None:
    """Memory of the configured model.

    None where it is not on this machine, or transformers has no such class or none that reads without weights.
    """
    path = str(folders().guard) if isinstance(config, GuardMonitorConfig) and config.path == "testbed" else config.path
    try:
        has_base = isinstance(config, ReasonerConfig | RewardMonitorConfig)
        model = _laid_out(Checkpoint.of(config) if has_base else Checkpoint(path, config.revision))
        dtype = pick_dtype(config.dtype, pick_device(config.device))
        cached = _cached(model)
    # Not every operation of every class is there for tensors without values.
    except (OSError, ValueError, RuntimeError, TypeError, AttributeError):
        return None
    # Where it is not chosen here, the checkpoint's own.
    width = (dtype if isinstance(dtype, torch.dtype) else model.dtype).itemsize
    return Footprint(
        weights_bytes=model.num_parameters() * width,
        position_bytes=sum(each.numel() for each in cached.keys_values) * width,
        logits_bytes=model.config.get_text_config().vocab_size * torch.float32.itemsize,
        # Some classes keep states in float32 whatever the precision of the weights.
        state_bytes=sum(each.numel() * max(width, each.itemsize) for each in cached.states),
    )


class _Cached(NamedTuple):
    """Tensors that a model caches of one row with one token."""

    keys_values: list[torch.Tensor]
    states: list[torch.Tensor]


@lru_cache(maxsize=8)
@torch.inference_mode()
def _cached(model: PreTrainedModel) -> _Cached:
    """Let a model without weights read one token: what its cache then holds no configuration says for all classes.

    A layer may have heads of its own size, latents in their place (DeepSeek-V3), or states.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device="meta")
    layers = model(input_ids=token, use_cache=True).past_key_values.layers
    pairs = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    states = [getattr(layer, name, None) or {} for layer in layers for name in ("conv_states", "recurrent_states")]
    return _Cached(
        [each for each in pairs if each is not None],
        [each for of_layer in states for each in of_layer.values() if each is not None],
    )


# The cells of a grid ask for the same few models again and again, and a large one takes a second to lay out.
@lru_cache(maxsize=8)
def _laid_out(checkpoint: Checkpoint) -> PreTrainedModel:
    """The model without its weights."""
    shape = checkpoint.config(local_files_only=True)
    with torch.device("meta"):
        # Experts that look at which tokens are theirs cannot be run without weights.
        return AutoModelForCausalLM.from_config(shape, experts_implementation="batched_mm").eval()


def decoding_gib(config: RunConfig) -> float | None:
    """Weights of reasoner and monitors, and keys and values of a full batch of each at its longest.

    What stands behind a server takes nothing here. None where a model is not known.
    """
    positions = config.batch_size * (PROMPT_TOKENS + config.limits.max_trace_tokens + config.limits.max_answer_tokens)
    states = config.batch_size * STATES_PER_ROW
    models = [config.reasoner, *models_of(config.monitor)]
    taken = [footprint(model) for model in models if getattr(model, "server", None) is None]
    known = [size for size in taken if size is not None]
    if len(known) < len(taken):
        return None
    return gib(sum(size.weights_bytes + positions * size.position_bytes + states * size.state_bytes for size in known))


def gib(size_bytes: int) -> float:
    """Bytes as plans tell them, rounded up to two digits."""
    return math.ceil(100 * size_bytes / GIB) / 100
