"""Reasoners and their tokenizers, from a folder, the hub or the package."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.nn import Module
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safethink.config import ReasonerConfig, RunConfig, ThoughtConfig
from safethink.errors import ConfigError, MissingFileError, SafeThinkError
from safethink.testbed import locate
from safethink.thought import Thought


@dataclass(frozen=True, slots=True)
class CausalLM:
    """A language model in eval mode and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(config: ReasonerConfig) -> CausalLM:
    """Load the configured reasoner.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
        ConfigError: if the device does not exist.
    """
    return load_causal_lm(
        locate(config.path),
        config.revision,
        config.dtype,
        config.device,
        device_map=config.device_map,
        quantization=config.quantization,
        attn_implementation=config.attn_implementation,
        compile_backend=config.compile_backend,
        trust_remote_code=config.trust_remote_code,
    )


def load_causal_lm(
    path: str | Path,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    *,
    device_map: str | None = None,
    quantization: str | None = None,
    attn_implementation: str | None = None,
    compile_backend: str | None = None,
    trust_remote_code: bool = False,
) -> CausalLM:
    """Load a model and its tokenizer.

    Args:
        path: folder or hub id.
        revision: commit of the hub repository.
        dtype: precision of the weights, see `pick_dtype`.
        device: where to, see `pick_device`.
        device_map: how transformers spreads the layers over several devices; None for `device` alone.
        quantization: `8bit` or `4bit` by bitsandbytes; None for none.
        attn_implementation: passed to transformers; None lets it choose.
        compile_backend: of torch.compile; None for none.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
        ConfigError: if the device or the backend does not exist, or what they need is not installed.
    """
    place = pick_device(device)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    if os.path.isdir(path) and not os.path.isfile(Path(path, "config.json")):
        raise MissingFileError(f"no model in the folder {str(path)!r}: it has no config.json")
    spread = {} if device_map is None and quantization is None else {"device_map": device_map or {"": place}}
    with _installed(), found("model", path):
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=pick_dtype(dtype, place),
            attn_implementation=attn_implementation,
            quantization_config=_quantization(quantization, dtype, place),
            **spread,
            **hub,
        )
    if not spread:
        # The class's own `to` is typed for quantised models alone.
        Module.to(model, place)
    if compile_backend is not None:
        _compile(model, compile_backend)
    return CausalLM(model.eval().requires_grad_(False), tokenizer)


def _quantization(name: str | None, dtype: str, device: torch.device) -> BitsAndBytesConfig | None:
    """What bitsandbytes is to do, and in which precision it computes."""
    if name is None:
        return None
    precision = pick_dtype(dtype, device)
    compute = precision if isinstance(precision, torch.dtype) else torch.bfloat16
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def _compile(model: PreTrainedModel, backend: str) -> None:
    """Compile the model's forward when it is first called, for all sizes of a batch at once.

    Raises:
        ConfigError: there is no such backend.
    """
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ConfigError(f"no such backend of torch.compile: {backend!r}; there are {', '.join(known)}")
    model.compile(backend=backend, dynamic=True)


@contextmanager
def _installed() -> Generator[None, None, None]:
    """Say which extra is missing where transformers says which package."""
    try:
        yield
    except ImportError as error:
        what = str(error).strip().splitlines()[0]
        raise ConfigError(f"device_map and quantization need the extra 'quantized': {what}") from error


def thought_settings(config: RunConfig) -> ThoughtConfig:
    """How the configured reasoner writes its thinking down, nothing left open; reads its tokenizer, not its weights.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
        ConfigError: if its family cannot be told.
    """
    path = locate(config.reasoner.path)
    hub = {"revision": config.reasoner.revision, "trust_remote_code": config.reasoner.trust_remote_code}
    with found("model", path):
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
        model_type = AutoConfig.from_pretrained(path, **hub).model_type
    return Thought(config.thought, tokenizer, model_type=model_type).settings


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, the hub or the package.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
    """
    with found("tokenizer", path):
        return AutoTokenizer.from_pretrained(locate(path))


@contextmanager
def found(what: str, path: str | Path) -> Generator[None, None, None]:
    """Say in one line what transformers says about `path` in many.

    Raises:
        MissingFileError: whatever it says; what is said here is raised as it is.
    """
    try:
        yield
    except SafeThinkError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingFileError(f"no {what} at {str(path)!r}: {str(error).strip().splitlines()[0]}") from error


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


def context_window(model: PreTrainedModel) -> int | None:
    """Number of tokens the model can attend to; None where its configuration names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
