"""Contexts: the states at which the monitor fires, each with a safe continuation to make likely; and harmless ones.

The reasoner is rolled out with the monitor watching and nothing injected. Where a step scores below the threshold, the
trace before it is a context. What the prefix should lead to is the reasoner's own: the step is sampled again, still
with nothing injected, and the continuation that the monitor scores best becomes the target, if it passes. So no target
was ever shaped by a prefix, and none can teach a prefix to flatter the monitor.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimize.config import ContextsConfig
from optimize.contexts.mining import mine, without_flukes
from optimize.contexts.rollouts import firings, harmless_states
from optimize.contexts.states import Context, ContextSet, spread
from optimize.splits import Split
from safethink.errors import SearchError
from safethink.guarded import SafeThink


def collect_search(guarded: SafeThink, split: Split, config: ContextsConfig, threshold: float) -> ContextSet:
    """Contexts with targets, to search on, spread over depths.

    States at which the monitor fires first come before those at which it fires again: there a defense would intervene,
    and the way back is short. Of the states of a depth with a target that passes, those are preferred where the monitor
    tells it and the violating step clearly apart: an imperfect monitor also fires on safe steps, and passes unsafe
    ones, but less surely.

    Args:
        guarded: the reasoner and its monitor.
        split: the prompts.
        config: how many.
        threshold: the monitor fires below it.

    Raises:
        SearchError: the monitor never fired, or no state has a safe continuation.
    """
    fired = firings(guarded, split, threshold)
    states = spread([first for first, *_ in fired]) + spread([state for _, *later in fired for state in later])
    mined = mine(guarded, states[: config.surplus * config.max_contexts], config, threshold)
    found = [context for context in mined if context.target_ids]
    if not found:
        raise SearchError(
            f"none of {config.best_of} continuations of any of {len(mined)} states passed the monitor; "
            "raise contexts.best_of or lower the threshold"
        )
    return ContextSet(
        unsafe=tuple(spread(clearest(without_flukes(guarded.model, found)))[: config.max_contexts]),
        harmless=tuple(without_flukes(guarded.model, harmless_states(guarded, split.harmless, config.target_tokens))),
        num_watched=len(split.attacks),
        num_fired=len(fired),
        num_mined=len(mined),
        num_without_target=len(mined) - len(found),
    )


def collect_validation(guarded: SafeThink, split: Split, config: ContextsConfig, threshold: float) -> ContextSet:
    """Contexts to choose on: the first state of each rollout at which the monitor fires, as in the recovery rate.

    Raises:
        SearchError: the monitor never fired.
    """
    first = [states[0] for states in firings(guarded, split, threshold)]
    return ContextSet(
        unsafe=tuple(first),
        harmless=harmless_states(guarded, split.harmless, config.target_tokens),
        num_watched=len(split.attacks),
        num_fired=len(first),
    )


def clearest(contexts: Sequence[Context]) -> list[Context]:
    """States in the order of how far apart the monitor sets violating step and target; otherwise as they stood."""
    return sorted(contexts, key=_margin, reverse=True)


def _margin(context: Context) -> float:
    """How far apart the monitor sets violating step and target; to one digit, because finer differences are noise."""
    return round((context.target_score or 0.0) - (context.score or 0.0), 1)
