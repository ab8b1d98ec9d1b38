"""A model's location, and the loading of its weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from safethink.config.section import Section


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
