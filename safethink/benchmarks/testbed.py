"""Prompts of the embedded testbed."""

from __future__ import annotations

from safethink.config import TestbedBenchmarkConfig, WorldConfig
from safethink.prompts import Prompt
from safethink.testbed import prompts


def load(config: TestbedBenchmarkConfig, world: WorldConfig) -> tuple[Prompt, ...]:
    """Draw the prompts; the same seeds give the same prompts, and fewer of them are a part of more."""
    return tuple(prompts.draw(config.prompts, config.split, config.n, world.prompts_seed))
