"""Sections of benchmarks, one per kind: where prompts come from, and which of them are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from safethink.config.section import Section
from safethink.prompts import PromptKind


class TestbedBenchmarkConfig(Section):
    """One kind of testbed prompt."""

    kind: Literal["testbed"] = "testbed"
    prompts: PromptKind
    """Kind of prompts."""
    split: Literal["search", "validation", "test"] = "test"
    """Split by wrappers and hazards."""
    n: int = Field(default=300, ge=1)
    """Number of prompts."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return self.prompts


class JsonlBenchmarkConfig(Section):
    """Prompts of one's own: JSONL with `prompt` or `messages`, optional `split`, `group`, `label`."""

    kind: Literal["jsonl"] = "jsonl"
    path: str
    """The file."""
    prompts: PromptKind
    """Kind of the prompts where a line has no `label`."""
    split: str | None = None
    """Keep only lines of this split."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return Path(self.path).stem


BenchmarkConfig = Annotated[TestbedBenchmarkConfig | JsonlBenchmarkConfig, Field(discriminator="kind")]
