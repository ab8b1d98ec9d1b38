"""SafeThink with nothing injected: roll back and resample. What the prefix itself is worth is measured against this."""

from __future__ import annotations

from dataclasses import replace

from safethink.config import ResampleOnlyConfig, SafeThinkConfig
from safethink.defenses.effects import Defense, Task
from safethink.defenses.safethink import safethink


def resample_only(task: Task, config: ResampleOnlyConfig) -> Defense:
    """Run SafeThink's loop with an empty portfolio."""
    return safethink(replace(task, prefixes=()), SafeThinkConfig(**config.model_dump(exclude={"kind"})))
