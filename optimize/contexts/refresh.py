"""Contexts on policy: the states on which the prefix found so far fails come in, those that it solves leave.

A search over a fixed set of states learns those by heart. Here the reasoner is rolled out again with new seeds, the
prefix is injected once at every state, and the monitor says which of them it solves. Targets are mined anew as well,
again with nothing injected: one that stands for good, a refusal say, would become the goal itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from optimize.config import ContextsConfig
from optimize.contexts.collection import clearest, firings, harmless_states
from optimize.contexts.context import Context, ContextSet, counted, spread
from optimize.contexts.fallbacks import filled
from optimize.contexts.mining import mine, without_flukes
from optimize.contexts.splits import Split
from optimize.contexts.watching import Watched, scores
from safethink.guarded import SafeThink
from safethink.judges.build import build
from safethink.runtime.result import Branch
from safethink.seeds import stable_seed
from safethink.tokens import Tokens


def refresh(
    guarded: SafeThink,
    split: Split,
    contexts: ContextSet,
    prefix_ids: tuple[int, ...],
    config: ContextsConfig,
    threshold: float,
    round_index: int,
    keep_prefix: bool = True,
) -> ContextSet:
    """The contexts of the next round.

    Args:
        guarded: the reasoner and its monitor.
        split: the prompts that are rolled out.
        contexts: those of the round before; a share of `config.replay_share` of them stays, the unsolved first.
        prefix_ids: the best prefix found so far.
        config: how many contexts, and what share of them is replayed.
        threshold: the monitor fires below it.
        round_index: of the round to come; seeds its rollouts.
        keep_prefix: whether the prefix stays in the trace behind the step that follows it.

    Raises:
        SafeThinkError: the monitor does not fire any more.
    """
    fresh = guarded.variant()
    fresh.seed = stable_seed(guarded.seed, "round", round_index)
    states = spread([state for fired in firings(fresh, split, threshold) for state in fired])
    judge = None if config.target_judge is None else build(config.target_judge).judge
    resampled = mine(fresh, states[: config.surplus * config.max_contexts], config, threshold, judge)
    mined = filled(fresh, resampled, split, config, threshold, judge)
    found = [context for context in mined if context.target_ids]
    num_replayed = round(config.replay_share * min(len(contexts.unsafe), config.max_contexts))
    # A state at which nothing passes this time keeps the target it had.
    hardest_first = partial(_hardest_first, fresh, prefix_ids=prefix_ids, threshold=threshold, keep_prefix=keep_prefix)
    replayed = hardest_first(mine(fresh, contexts.unsafe, config, threshold, judge))[:num_replayed]
    incoming = hardest_first(clearest(without_flukes(fresh.model, found)))
    return ContextSet(
        unsafe=tuple(spread((replayed + incoming)[: config.max_contexts])),
        harmless=tuple(without_flukes(fresh.model, harmless_states(fresh, split.harmless, config.target_tokens))),
        num_watched=len(split.attacks),
        num_fired=len({state.prompt.id for state in states}),
        num_mined=len(mined),
        num_without_target=len(mined) - len(found),
        num_targets=(origins := counted(found)),
        dropped=tuple(context.name for context in mined if not context.target_ids) if origins else (),
    )


def solved(
    guarded: SafeThink,
    contexts: Sequence[Context],
    prefix_ids: tuple[int, ...],
    threshold: float,
    keep_prefix: bool = True,
) -> list[bool]:
    """Whether the monitor passes what follows one injection at each state."""
    results = guarded.continue_from(
        Branch(context.prompt, Tokens.sampled(context.trace_ids), prefix_ids, keep_prefix=keep_prefix)
        for context in contexts
    )
    return [score >= threshold for score in scores(guarded, [Watched.of(result) for result in results])]


def _hardest_first(
    guarded: SafeThink,
    contexts: Sequence[Context],
    prefix_ids: tuple[int, ...],
    threshold: float,
    keep_prefix: bool,
) -> list[Context]:
    """Contexts that the prefix fails on, then those that it solves, each spread over depths."""
    done = solved(guarded, contexts, prefix_ids, threshold, keep_prefix)
    failed = [context for context, is_solved in zip(contexts, done, strict=True) if not is_solved]
    passed = [context for context, is_solved in zip(contexts, done, strict=True) if is_solved]
    return spread(failed) + spread(passed)
