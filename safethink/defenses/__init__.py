"""Defenses: rules for when and how to intervene. One per file, each a generator over the effects of `effects.py`."""

from __future__ import annotations

from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.defenses.always import always
from safethink.defenses.effects import Defense, Task
from safethink.defenses.guard_refuse import guard_refuse
from safethink.defenses.none import undefended
from safethink.defenses.resample_only import resample_only
from safethink.defenses.safethink import safethink


def start(config: DefenseConfig, task: Task) -> Defense:
    """Start the configured defense on one row; nothing happens before the scheduler asks for its first effect."""
    match config:
        case NoneConfig():
            return undefended(task)
        case AlwaysConfig():
            return always(task)
        case GuardRefuseConfig():
            return guard_refuse(task, config)
        case ResampleOnlyConfig():
            return resample_only(task, config)
        case SafeThinkConfig():
            return safethink(task, config)
