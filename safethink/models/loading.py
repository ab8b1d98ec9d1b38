# pyright: standard
"""Reasoners and their tokenizers, from a folder, the hub or the package, ready to be run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safethink.config import ReasonerConfig, RunConfig
from safethink.models.checkpoint import Checkpoint, found
from safethink.models.placement import compile_forward, installed, pick_device, placed, put
from safethink.thinking.format import Thought
from safethink.thinking.opening import refuse_contradiction


@dataclass(frozen=True, slots=True)
class CausalLM:
    """A language model in eval mode and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(config: ReasonerConfig) -> CausalLM:
    """Load the configured reasoner.

    Raises:
        MissingFileError: if there is no such folder or hub repository.
        ConfigError: if the device does not exist, or an adapter does not fit its base.
    """
    return _loaded(
        Checkpoint.of(config),
        config.dtype,
        config.device,
        device_map=config.device_map,
        quantization=config.quantization,
        attn_implementation=config.attn_implementation,
        compile_backend=config.compile_backend,
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
        path: folder or hub id of a model or an adapter.
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
    return _loaded(
        Checkpoint(str(path), revision, trust_remote_code),
        dtype,
        device,
        device_map=device_map,
        quantization=quantization,
        attn_implementation=attn_implementation,
        compile_backend=compile_backend,
    )


def _loaded(
    checkpoint: Checkpoint,
    dtype: str,
    device: str,
    *,
    device_map: str | None,
    quantization: str | None,
    attn_implementation: str | None,
    compile_backend: str | None,
) -> CausalLM:
    """A checkpoint's model, placed and ready to be run, and its tokenizer."""
    place = pick_device(device)
    with installed(), found("model", checkpoint.path):
        # The configuration first: where there is no model, that says so.
        config = checkpoint.config()
        tokenizer = checkpoint.tokenizer()
        model = checkpoint.model(
            config, attn_implementation=attn_implementation, **placed(dtype, place, device_map, quantization)
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


def context_window(model: PreTrainedModel) -> int | None:
    """Number of tokens the model can attend to; None where its configuration names no limit."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)
