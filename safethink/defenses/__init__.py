"""Defenses: rules for when and how to intervene. One per file, each a generator over the effects of `effects.py`."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

from safethink.config import (
    AlwaysConfig,
    DefenseConfig,
    EntryPointDefenseConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.defenses import rule
from safethink.defenses.always import always
from safethink.defenses.effects import Defense, Task
from safethink.defenses.guard_refuse import guard_refuse
from safethink.defenses.none import undefended
from safethink.defenses.resample_only import resample_only
from safethink.defenses.rule import Begin, Needs, Rule
from safethink.defenses.safethink import safethink

__all__ = ["Begin", "DefenseLike", "Needs", "Rule", "build", "drops_prefix", "start"]

DefenseLike: TypeAlias = DefenseConfig | Rule | Begin
"""A section of the configuration, any generator function `(task) -> Defense`, or a rule that was built."""


def build(defense: DefenseLike) -> Rule:
    """Build the rule that a configuration describes or a callable is; a rule is built already.

    Raises:
        ConfigError: an entry point that is not there, does not load, or is no defense; or a callable that does not take
            a task alone.
    """
    match defense:
        case Rule():
            return defense
        case NoneConfig():
            return Rule(defense.kind, undefended, Needs(scores=False, prefix=False))
        case AlwaysConfig():
            return Rule(defense.kind, always, Needs(scores=False))
        case GuardRefuseConfig():
            needs = Needs(prefix=False, threshold=defense.threshold)
            return Rule(defense.kind, partial(guard_refuse, config=defense), needs)
        case ResampleOnlyConfig():
            needs = Needs(prefix=False, threshold=defense.threshold)
            return Rule(defense.kind, partial(resample_only, config=defense), needs)
        case SafeThinkConfig():
            return Rule(defense.kind, partial(safethink, config=defense), Needs(threshold=defense.threshold))
        case EntryPointDefenseConfig():
            return rule.of_entry_point(defense)
        case _:
            return rule.of_callable(defense)


def drops_prefix(defense: DefenseLike) -> bool:
    """Whether what a defense injects leaves the trace once the step behind it is accepted."""
    return isinstance(defense, SafeThinkConfig) and not defense.keep_prefix


def start(defense: DefenseLike, task: Task) -> Defense:
    """Start a defense on one row; nothing happens before the scheduler asks for its first effect.

    Where it starts on many rows, build its rule once and start that.
    """
    return build(defense)(task)
