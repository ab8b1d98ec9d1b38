"""The reasoner: where it is, how its thinking is written down, how long it may get, how it is sampled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from safethink.config.section import Section
from safethink.config.server import ServerConfig


class ReasonerConfig(Section):
    """The model being guarded."""

    path: str
    """Folder or hub id; `testbed` and `testbed:null` name the shipped reasoners."""
    revision: str | None = None
    """Commit of the hub repository."""
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    """Precision of the weights; `auto` keeps the checkpoint's own (float32 on a CPU)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."""
    attn_implementation: str | None = None
    """Passed to transformers; None lets it choose."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""
    server: ServerConfig | None = None
    """Where the weights are served; None loads them here. `path` then names the tokenizer and configuration alone."""


class ThoughtConfig(Section):
    """Where thinking opens and closes, where a step ends."""

    open_tag: str = "<think>"
    """What opens the thinking."""
    close_tag: str = "</think>"
    """What closes it."""
    step_delimiter: str = "\n\n"
    """What ends a step; found on decoded text."""
    prefix_separator: str = "\n"
    """Injected right behind a prefix, so that it stands on a line of its own and is not the opening of a step that the
    reasoner would complete; empty for nothing."""


class LimitsConfig(Section):
    """How long things may get."""

    max_step_tokens: int = Field(default=256, ge=1)
    """A step is cut after this many tokens."""
    max_trace_tokens: int = Field(default=4096, ge=1)
    """A trace that has not closed by then is invalid."""
    max_answer_tokens: int = Field(default=1024, ge=1)
    """An answer is cut after this many tokens."""


class SamplingConfig(Section):
    """How the reasoner's next token is chosen."""

    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass; 1 keeps everything."""
    top_k: int = Field(default=0, ge=0)
    """Number of most likely tokens kept; 0 keeps everything."""
