"""Base models of the sections of a YAML file: any section, a monitor's, a plug-in's, a model's, a server's."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, StringConstraints, ValidationError

from safethink.config.yaml_config import explain
from safethink.errors import ConfigError
from safethink.frozen import Growing

Some = TypeVar("Some", bound="Section")


class Section(Growing):
    """Base of every section: immutable, no unknown keys, help from the docstrings under the fields."""

    def replace(self: Some, **changes: Any) -> Some:
        """The same section with other values, validated as if they had been read from a file.

        Raises:
            ConfigError: an unknown key, or a value that does not fit; names it.
        """
        try:
            return super().replace(**changes)
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {explain(type(self), error)}") from error


class MonitorSection(Section):
    """Base of every monitor's section."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"persistence"})

    persistence: int = Field(default=1, ge=1)
    """So many scores in a row must be low before the monitor fires: a step's score is the highest of the last so many
    of its trace, and 1 until there are that many. 1 takes each score as it is."""

    @property
    def title(self) -> str:
        """Name of the monitor in artifacts and reports."""
        return str(getattr(self, "kind", type(self).__name__))


class EntryPointSection(Section):
    """Reference to a plug-in of another package by its entry point."""

    kind: Literal["entry_point"] = "entry_point"
    name: str
    """The entry point's name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for what the entry point names."""


class WeightsSection(Section):
    """A model of transformers: the reasoner, or what a monitor asks."""

    path: str
    """Folder or hub id; names of shipped models, such as `testbed`, are paths too."""
    revision: str | None = None
    """Commit of the hub repository."""
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    """Precision of the weights; `auto` keeps the checkpoint's own (float32 on a CPU)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."""
    device_map: str | None = None
    """`auto`, `balanced` or `sequential` spread the layers over all devices, in place of `device`; None for one device.
    Needs the extra `quantized`."""
    quantization: Literal["8bit", "4bit"] | None = None
    """Weights rounded by bitsandbytes while they are loaded; needs the extra `quantized`."""


class ServerConfig(Section):
    """A server that speaks the OpenAI completions protocol, such as vLLM or SGLang."""

    urls: tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^\s/]+(/\S*)?$")], ...] = Field(min_length=1)
    """Base URL, up to and with `/v1`; several for replicas of one model. A row stays with its replica, whose prefix
    cache knows it, and moves on when that one dies."""
    model: str | None = None
    """Name of the model on the server; None where it serves a single one."""
    api_key_env: str | None = None
    """Name of the environment variable with the key; None for a server that asks for none."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds that one request may take."""
    max_retries: int = Field(default=5, ge=0)
    """Further attempts at a request that met 429, 5xx, a timeout or a lost connection; the pauses between them grow."""
    max_concurrency: int = Field(default=128, ge=1)
    """The most requests in flight at once, over all replicas."""
    prompts: Literal["auto", "ids", "text"] = "auto"
    """Form of prompts, token ids or text; `auto` asks the server once, and prefers ids."""


class GuardServerConfig(ServerConfig):
    """A server with a guard."""

    api: Literal["completions", "chat"] = "completions"
    """`completions` reads the verdicts' log-probabilities; `chat`, where that is all there is, the verdict as text."""
    samples: int = Field(default=1, ge=1)
    """Verdicts per trace where `api` is `chat`: one is greedy and scores +1 or -1, of several the mean counts."""
