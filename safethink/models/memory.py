# pyright: standard
"""Memory estimates of a run, from the models' configurations: no weights are loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from safethink.config import GuardMonitorConfig, ModelSection, ReasonerConfig, RunConfig
from safethink.config.monitors import models_of
from safethink.models.placement import pick_device, pick_dtype
from safethink.testbed import folders, locate

PROMPT_TOKENS: Final = 512
"""Assumed length of a prompt, which is not known before it is read."""
GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a model: weights, keys and values, logits.

    Attributes:
        weights_bytes: its parameters.
        position_bytes: the keys and values of one position in one row.
        logits_bytes: the logits of one position in one row, in float32.
    """

    weights_bytes: int
    position_bytes: int
    logits_bytes: int


def footprint(config: ReasonerConfig | ModelSection) -> Footprint | None:
    """Memory of the configured model; None where it is not on this machine, or transformers has no such class."""
    path = str(folders().guard) if isinstance(config, GuardMonitorConfig) and config.path == "testbed" else config.path
    try:
        model = _laid_out(path, config.revision)
        dtype = pick_dtype(config.dtype, pick_device(config.device))
    except (OSError, ValueError):
        return None
    # Where it is not chosen here, the checkpoint's own.
    width = (dtype if isinstance(dtype, torch.dtype) else model.dtype).itemsize
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Footprint(
        weights_bytes=model.num_parameters() * width,
        position_bytes=2 * text.num_hidden_layers * heads * head_size * width,
        logits_bytes=text.vocab_size * torch.float32.itemsize,
    )


# The cells of a grid ask for the same few models again and again, and a large one takes a second to lay out.
@lru_cache(maxsize=8)
def _laid_out(path: str, revision: str | None) -> PreTrainedModel:
    """The model without its weights."""
    shape = AutoConfig.from_pretrained(locate(path), revision=revision, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape)


def decoding_gib(config: RunConfig) -> float | None:
    """Weights of reasoner and monitors, and keys and values of a full batch of each at its longest.

    What stands behind a server takes nothing here. None where a model is not known.
    """
    rows = config.batch_size * (PROMPT_TOKENS + config.limits.max_trace_tokens + config.limits.max_answer_tokens)
    models = [config.reasoner, *models_of(config.monitor)]
    taken = [footprint(model) for model in models if getattr(model, "server", None) is None]
    known = [size for size in taken if size is not None]
    if len(known) < len(taken):
        return None
    return gib(sum(size.weights_bytes + rows * size.position_bytes for size in known))


def gib(size_bytes: int) -> float:
    """Bytes as plans tell them, rounded up to two digits."""
    return math.ceil(100 * size_bytes / GIB) / 100
