# pyright: standard
"""A reasoner whose weights stand behind a server: what is known of it here."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedTokenizerBase

from safethink.config import ReasonerConfig
from safethink.models.loading import found, load_tokenizer
from safethink.servers.completions import Completions
from safethink.testbed import locate


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """Stands where the weights would.

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
        return min((each for each in (own, self.completions.context_tokens) if each is not None), default=None)

    @property
    def name(self) -> str:
        """What is known of the weights: how the server calls them."""
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
        ServerError: the server cannot be reached, or answers nonsense.
        ConfigError: it has not what `server` names.
    """
    assert config.server is not None, "not behind a server"
    tokenizer = load_tokenizer(config.path, config.revision, config.trust_remote_code)
    hub = {"revision": config.revision, "trust_remote_code": config.trust_remote_code}
    with found("model", config.path):
        own = AutoConfig.from_pretrained(locate(config.path), **hub)
    try:
        generation = GenerationConfig.from_pretrained(locate(config.path), revision=config.revision or "main")
    except OSError:
        generation = None
    return ServedLM(ServedModel(Completions(config.server, tokenizer), own, generation), tokenizer)
