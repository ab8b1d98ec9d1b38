# pyright: standard
"""From a reasoner's section of the YAML to its engine, whether its weights are here or behind a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from safethink.config import ReasonerConfig
from safethink.engines import Engine
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import Stopper
from safethink.models import loading
from safethink.models.checkpoint import Checkpoint
from safethink.models.hashes import model_hash
from safethink.models.loading import CausalLM
from safethink.servers import canary
from safethink.servers.completions import Completions
from safethink.testbed import locate
from safethink.thinking.format import Thought


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """Weights behind a server, in place of a local model.

    Attributes:
        completions: the server.
        config: the model's own, as `path` has it.
        generation_config: likewise; None where there is none.
    """

    completions: Completions
    config: PreTrainedConfig
    generation_config: GenerationConfig | None

    @property
    def context_tokens(self) -> int | None:
        """Number of tokens that the model can attend to there; None where neither side names a limit."""
        own = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return min((limit for limit in (own, self.completions.context_tokens) if limit is not None), default=None)

    @property
    def name(self) -> str:
        """Name of the weights on the server, in place of their hash."""
        return f"served as {self.completions.model}"


@dataclass(frozen=True, slots=True)
class ServedLM:
    """A served model and its tokenizer."""

    model: ServedModel
    tokenizer: PreTrainedTokenizerBase


def load_served(config: ReasonerConfig) -> ServedLM:
    """Load the tokenizer and configuration of the reasoner, and connect to its server.

    Raises:
        MissingFileError: `path` is no folder or hub repository.
        ServerError: the server cannot be reached, answers nonsense, or goes on otherwise behind a cached prefix.
        ConfigError: it has not what `server` names.
    """
    assert config.server is not None, "not behind a server"
    checkpoint = Checkpoint.of(config)
    tokenizer, own = checkpoint.tokenizer(), checkpoint.config()
    try:
        generation = GenerationConfig.from_pretrained(locate(config.path), revision=config.revision or "main")
    except OSError:
        generation = None
    completions = Completions(config.server, tokenizer)
    canary.check_if_recurrent(completions, own)
    return ServedLM(ServedModel(completions, own, generation), tokenizer)


Model: TypeAlias = PreTrainedModel | ServedModel
"""A reasoner's weights, or what stands where they would."""


def load(config: ReasonerConfig) -> CausalLM | ServedLM:
    """Load the configured reasoner, or connect to its server.

    Raises:
        MissingFileError: there is no such folder or hub repository.
        ConfigError: the device does not exist, or the server has not what is asked of it.
        ServerError: the server cannot be reached, or answers nonsense.
    """
    return loading.load(config) if config.server is None else load_served(config)


def context_window(model: Model) -> int | None:
    """Number of tokens the reasoner can attend to; None where there is no limit."""
    return model.context_tokens if isinstance(model, ServedModel) else loading.context_window(model)


def end_ids(model: Model, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a turn: the model's and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    named = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    return frozenset(token_id for token_id in named if isinstance(token_id, int))


def fingerprint(model: Model) -> str:
    """Hash of the reasoner's weights; of those behind a server no more is known than their name there."""
    return model.name if isinstance(model, ServedModel) else model_hash(model)


def build(
    model: Model, thought: Thought, stopper: Stopper, sampling: Sampling, max_cached_tokens: int | None = None
) -> Engine:
    """The engine that continues with `model`.

    Args:
        model: the reasoner.
        thought: how its thinking is written down.
        stopper: where steps, thinking and answers end.
        sampling: how the next token is chosen.
        max_cached_tokens: the most tokens whose keys and values are kept here; None for no limit.

    Raises:
        ConfigError: its server cannot be used so.
    """
    if isinstance(model, ServedModel):
        from safethink.engines.http import HttpEngine

        never = getattr(model.generation_config, "suppress_tokens", None) or ()
        return HttpEngine(model.completions, thought, stopper, sampling, never)
    from safethink.engines.hf import HfEngine

    return HfEngine(model, stopper, sampling, max_cached_tokens=max_cached_tokens)
