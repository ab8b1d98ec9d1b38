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
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from safethink.config import ReasonerConfig
from safethink.errors import ConfigError, MissingFileError
from safethink.testbed import locate


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
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
    )


def load_causal_lm(
    path: str | Path,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    *,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> CausalLM:
    """Load a model and its tokenizer.

    Args:
        path: folder or hub id.
        revision: commit of the hub repository.
        dtype: precision of the weights, see `pick_dtype`.
        device: where to, see `pick_device`.
        attn_implementation: passed to transformers; None lets it choose.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
        ConfigError: if the device does not exist.
    """
    place = pick_device(device)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    if os.path.isdir(path) and not os.path.isfile(Path(path, "config.json")):
        raise MissingFileError(f"no model in the folder {str(path)!r}: it has no config.json")
    with naming("model", path):
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=pick_dtype(dtype, place), attn_implementation=attn_implementation, **hub
        )
    # The class's own `to` is typed for quantised models alone.
    Module.to(model, place)
    return CausalLM(model.eval().requires_grad_(False), tokenizer)


def load_tokenizer(path: str, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder, the hub or the package.

    Args:
        path: folder or hub id, or the name of a shipped reasoner.
        revision: commit of the hub repository.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
    """
    with naming("tokenizer", path):
        return AutoTokenizer.from_pretrained(locate(path), revision=revision, trust_remote_code=trust_remote_code)


@contextmanager
def naming(what: str, path: str | Path) -> Generator[None, None, None]:
    """Say in one line what transformers says about `path` in many.

    Raises:
        MissingFileError: there is no such `what`.
    """
    try:
        yield
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
