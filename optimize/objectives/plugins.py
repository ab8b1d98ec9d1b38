"""Objective terms of other packages, found by their entry points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from optimize.config import EntryPointTermConfig
from optimize.contexts import ContextSet
from optimize.objectives.protocols import ContextTerm, WholeTerm
from optimize.objectives.reward import MakeScorer
from safethink.config.plugins import PluginKind
from safethink.guarded import SafeThink


@dataclass(frozen=True, slots=True)
class TermInputs:
    """Inputs that an objective term of another package is built from; its options follow as keyword arguments.

    Attributes:
        guarded: the reasoner with its monitor.
        contexts: where prefixes are injected and what they should lead to.
        read: makes the scorer of contexts, and of what should follow a prefix there.
        threshold: the monitor passes what it scores from it on.
        seed: of what is sampled.
    """

    guarded: SafeThink
    contexts: ContextSet
    read: MakeScorer
    threshold: float
    seed: int


def _is_term(found: object) -> TypeGuard[WholeTerm | ContextTerm]:
    return isinstance(found, WholeTerm | ContextTerm) and not isinstance(found, type)


PLUGINS = PluginKind(
    "objective term",
    "safethink.objective_terms",
    _is_term,
    "`name`, `meters`, `gradient`, `soft_cost`, and `costs` or `num_contexts` and `context_costs`",
)
"""Objective terms of other packages."""


def build(config: EntryPointTermConfig, given: TermInputs) -> WholeTerm | ContextTerm:
    """Build the term that an entry point names.

    Args:
        config: its name and options.
        given: what it is handed before the options.

    Raises:
        ConfigError: there is none or several of that name, or it does not load, or what it makes is no term.
    """
    return PLUGINS.make(config.name, config.options, given)
