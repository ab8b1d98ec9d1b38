"""Whole configurations of what learns: prompts and reasoner, and over them a collection of contexts or a search."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from optimize.config.contexts import ContextsConfig
from optimize.config.methods import GcgConfig, MethodConfig
from optimize.config.objective import ObjectiveConfig
from optimize.config.selection import SelectionConfig
from safethink.config import BenchmarkConfig, RunConfig, Section, WorldConfig
from safethink.errors import ConfigError


class PromptSetsConfig(Section):
    """Benchmarks whose prompts a prefix is learned on, each by the section that `safethink evaluate` has for it."""

    either: tuple[BenchmarkConfig, ...] = ()
    """Split into search and validation: what shares a group or asks the same stays on one side."""
    search: tuple[BenchmarkConfig, ...] = ()
    """Searched on."""
    validation: tuple[BenchmarkConfig, ...] = ()
    """Chosen on."""
    held_out: tuple[BenchmarkConfig, ...] = ()
    """Never learned on: what one of these asks is left out of the others."""

    @model_validator(mode="after")
    def _both_sides(self) -> PromptSetsConfig:
        if not self.either and not (self.search and self.validation):
            raise ValueError("give `either`, or both `search` and `validation`")
        return self


class LearningSection(Section):
    """Prompts that contexts are collected from, and the reasoner that collects them."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"prompt_sets"})

    run: RunConfig
    world: WorldConfig = WorldConfig()
    prompts: str | None = None
    """JSONL with prompts of one's own; None for the testbed's."""
    prompt_sets: PromptSetsConfig | None = None
    """Published benchmarks, in place of `prompts`."""

    @property
    def on_testbed(self) -> bool:
        """Whether the prompts are the testbed's."""
        return self.prompts is None and self.prompt_sets is None

    @model_validator(mode="after")
    def _one_source(self) -> LearningSection:
        if self.prompts is not None and self.prompt_sets is not None:
            raise ValueError("give either `prompts` or `prompt_sets`")
        return self


class CollectConfig(LearningSection):
    """Configuration of `safethink-optimize contexts`."""

    contexts: ContextsConfig = ContextsConfig()
    forced_prompts: int = Field(default=64, ge=0)
    """Harmless and borderline prompts of validation, into which finalists will be forced."""


class SearchConfig(LearningSection):
    """Configuration of `safethink-optimize search`."""

    contexts: ContextsConfig = ContextsConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    search: MethodConfig = GcgConfig()
    selection: SelectionConfig = SelectionConfig()
    name: str = "learned"
    """Name written into the artifact."""
    devices: int = Field(default=1, ge=1)
    """Processes that share the contexts, one per GPU, or on the CPU."""
    seed: int = 0
    """Seeds the search."""


def refuse_devices(config: SearchConfig) -> None:
    """Refuse to share one search among processes where several searches run side by side.

    Raises:
        ConfigError: `devices` is more than one.
    """
    if config.devices > 1:
        raise ConfigError(f"devices: {config.devices}, but whole searches run side by side here: set `workers`")
