# pyright: standard
"""Reasoners and their tokenizers, from a folder, the hub or the package."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from safethink.config import ReasonerConfig, RunConfig
from safethink.errors import MissingFileError, SafeThinkError
from safethink.models.placement import compile_forward, installed, pick_device, placed, put
from safethink.testbed import locate
from safethink.thinking.format import Thought
from safethink.thinking.opening import refuse_contradiction


@dataclass(frozen=True, slots=True)
class CausalLM:
    """A language model in eval mode and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's location, for what is read beside its weights.

    Attributes:
        path: folder or hub id, or the name of a shipped reasoner.
        revision: commit of the hub repository.
        trust_remote_code: whether code from the model's repository may run.
    """

    path: str
    revision: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(cls, config: ReasonerConfig) -> Checkpoint:
        """The configured reasoner's."""
        return cls(config.path, config.revision, config.trust_remote_code)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer.

        Raises:
            MissingFileError: if there is no such folder or hub repository.
        """
        with found("tokenizer", self.path):
            return AutoTokenizer.from_pretrained(
                locate(self.path), revision=self.revision, trust_remote_code=self.trust_remote_code
            )

    def config(self) -> PreTrainedConfig:
        """Load the model's own configuration.

        Raises:
            MissingFileError: if there is no such folder or hub repository.
        """
        with found("model", self.path):
            return AutoConfig.from_pretrained(
                locate(self.path), revision=self.revision, trust_remote_code=self.trust_remote_code
            )


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
        if os.path.isfile(Path(path, "adapter_config.json")):
            raise MissingFileError(
                f"the folder {str(path)!r} holds a LoRA adapter, not a model; merge it into its base model with peft's "
                "merge_and_unload, save that with its tokenizer, and give the folder"
            )
        raise MissingFileError(f"no model in the folder {str(path)!r}: it has no config.json")
    with installed(), found("model", path):
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            attn_implementation=attn_implementation,
            **placed(dtype, place, device_map, quantization),
            **hub,
        )
    if compile_backend is not None:
        compile_forward(model, compile_backend)
    return CausalLM(put(model, place), tokenizer)


def complete(config: RunConfig) -> RunConfig:
    """The configuration with nothing left to the reasoner's family; reads its tokenizer, not its weights.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
        ConfigError: if its family cannot be told, or its chat template does other than the configuration says.
    """
    checkpoint = Checkpoint.of(config.reasoner)
    # The configuration first: where there is no model, that says so.
    model_type = checkpoint.config().model_type
    thought = Thought.today(
        config.thought, checkpoint.tokenizer(), model_type=model_type, template_args=config.reasoner.template_args
    )
    refuse_contradiction(thought)
    return thought.complete(config)


@contextmanager
def found(what: str, path: str | Path) -> Generator[None, None, None]:
    """Turn transformers' loading errors about `path` into one line.

    Raises:
        MissingFileError: whatever it says; what is said here is raised as it is.
    """
    try:
        yield
    except SafeThinkError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise MissingFileError(f"no {what} at {str(path)!r}: {str(error).strip().splitlines()[0]}") from error


def context_window(model: PreTrainedModel) -> int | None:
    """Number of tokens the model can attend to; None where its configuration names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
