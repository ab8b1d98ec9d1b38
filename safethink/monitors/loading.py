"""Loads the models of monitors, and refuses one whose weights transformers had to make up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch.nn import Module, ModuleList
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MllamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safethink.config import GuardMonitorConfig, ModelSection
from safethink.errors import ConfigError
from safethink.loading import found, pick_device, pick_dtype
from safethink.testbed import folders


@dataclass(frozen=True, slots=True)
class Loaded:
    """A monitor's model in eval mode, and its tokenizer.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        missing: names of weights that the checkpoint does not have.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: frozenset[str]


def load_guard(config: GuardMonitorConfig) -> Loaded:
    """Load a generative guard; of one that also reads images, the language model alone.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist, or the checkpoint is not that of a language model.
    """
    if config.path == "testbed":
        config = config.model_copy(update={"path": str(folders().guard)})
    loaded = load(AutoModelForCausalLM, config)
    refuse_made_up(loaded.missing, config.path)
    if isinstance(loaded.model, MllamaForCausalLM):
        _drop_cross_attention(loaded.model)
    return loaded


def load(model_class: Any, config: ModelSection, trust_remote_code: bool = False) -> Loaded:
    """Load a model and its tokenizer.

    Args:
        model_class: whose `from_pretrained` loads it.
        config: where it is.
        trust_remote_code: whether code from the model's repository may run.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist.
    """
    place = pick_device(config.device)
    hub = {"revision": config.revision, "trust_remote_code": trust_remote_code}
    with found("model", config.path):
        tokenizer = AutoTokenizer.from_pretrained(config.path, **hub)
        model, info = model_class.from_pretrained(
            config.path, dtype=pick_dtype(config.dtype, place), output_loading_info=True, **hub
        )
    Module.to(model, place)
    return Loaded(model.eval().requires_grad_(False), tokenizer, frozenset(info["missing_keys"]))


def refuse_made_up(missing: Collection[str], path: str) -> None:
    """Check that every weight came from the checkpoint.

    Raises:
        ConfigError: transformers initialised some at random, so that scores would mean nothing.
    """
    if missing:
        names = ", ".join(sorted(missing)[:3]) + ("..." if len(missing) > 3 else "")
        raise ConfigError(f"the checkpoint at {path!r} lacks {names}: it is no model of the kind that is asked for")


def _drop_cross_attention(model: MllamaForCausalLM) -> None:
    """Take the layers out that look at images; without one they are skipped, and their empty caches are in the way."""
    language: Any = model.model
    looking = set(language.cross_attention_layers)
    language.layers = ModuleList(layer for index, layer in enumerate(language.layers) if index not in looking)
    language.cross_attention_layers = []
    for index, layer in enumerate(language.layers):
        layer.layer_idx = layer.self_attn.layer_idx = index
