# pyright: standard
"""Hashes by which an artifact recognises the tokenizer, the template and the model it was made with."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from safethink.errors import ConfigError
from safethink.files import json_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what decides how text becomes ids: vocabulary, merges, normalisation, splitting and added tokens.

    Raises:
        ConfigError: if the tokenizer is not backed by the `tokenizers` library.
    """
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(f"tokenizer {tokenizer.name_or_path!r} is not backed by the tokenizers library")
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    return json_hash({"added_tokens": added} | {key: state[key] for key in ("normalizer", "pre_tokenizer", "model")})


def chat_template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the chat template."""
    return json_hash(tokenizer.chat_template)


def noted(model: PreTrainedModel, adapter_sha256: str) -> PreTrainedModel:
    """A model with the hash of the adapter that was put on it."""
    model.adapter_sha256 = adapter_sha256  # pyright: ignore[reportArgumentType]
    return model


def adapter_hash(model: PreTrainedModel) -> str | None:
    """Hash of the file of the adapter that was put on a model; None where none was.

    It is the same wherever the base is from, a hub or a GGUF file, and however it was rounded on the way, which changes
    every weight of the sum.
    """
    return getattr(model, "adapter_sha256", None)


def model_hash(model: PreTrainedModel, rounded: bool = False) -> str:
    """Hash every weight, by name; reads the whole model once.

    Args:
        model: any model.
        rounded: hash the weights as rounded to bfloat16, so that one checkpoint has one hash in whatever precision it
            is loaded.
    """
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        tensor = weight.bfloat16() if rounded and weight.is_floating_point() else weight
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
