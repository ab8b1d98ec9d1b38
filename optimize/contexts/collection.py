"""Contexts: the states at which the monitor fires, each with a safe continuation to make likely; and harmless ones.

The reasoner is rolled out with the monitor watching and nothing injected. Where a step scores below the threshold, the
trace before it is a context. What the prefix should lead to is the reasoner's own: the step is sampled again, still
with nothing injected, and the continuation that the monitor scores best becomes the target, if it passes. So no target
was ever shaped by a prefix, and none can teach a prefix to flatter the monitor. Only where that leaves too few contexts
do the fall-backs of `fallbacks` come in; their targets say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from optimize.config import ContextsConfig
from optimize.contexts.context import Context, ContextSet, counted, spread
from optimize.contexts.fallbacks import filled
from optimize.contexts.mining import mine, without_flukes
from optimize.contexts.splits import Split
from safethink.config import DefenseConfig, NoneConfig, ResampleOnlyConfig
from safethink.errors import SearchError
from safethink.guarded import SafeThink
from safethink.judges.build import build
from safethink.progress import progress
from safethink.prompts import Prompt
from safethink.runtime.result import Result
from safethink.seeds import stable_seed
from safethink.thinking.opening import prefill_tokens
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens


def firings(guarded: SafeThink, split: Split, threshold: float) -> list[list[Context]]:
    """The states at which the monitor fires: per attack prompt on which it does, in the order of its trace.

    Args:
        guarded: the reasoner and its monitor.
        split: the prompts.
        threshold: the monitor fires below it.

    Raises:
        SearchError: it never fired.
    """
    watching = ResampleOnlyConfig(threshold=threshold, max_steered_steps=0)
    rollouts = _roll_out(guarded, split.attacks, watching, f"watching {split.name} prompts")
    fired = [states for rollout in rollouts if (states := _firings(guarded, rollout, threshold))]
    if not fired:
        raise SearchError(
            f"the monitor never fired on {len(split.attacks)} {split.name} prompts (threshold {threshold}): "
            "there is nothing to learn from"
        )
    return fired


def harmless_states(guarded: SafeThink, prompts: Sequence[Prompt], target_tokens: int) -> tuple[Context, ...]:
    """A random step of each harmless prompt's own trace; the step itself is the target."""
    contexts: list[Context] = []
    for rollout in _roll_out(guarded, prompts, NoneConfig(), "rolling out harmless prompts"):
        steps = _steps(guarded, rollout)
        if steps:
            step = steps[stable_seed(guarded.seed, "boundary", rollout.prompt.id) % len(steps)]
            contexts.append(step.replace(target_ids=step.step_ids[:target_tokens]))
    return tuple(contexts)


def _roll_out(guarded: SafeThink, prompts: Sequence[Prompt], defense: DefenseConfig, what: str) -> list[Result]:
    places = {prompt.id: place for place, prompt in enumerate(prompts)}
    results = guarded.variant(defense=defense).as_finished((prompt, 0) for prompt in prompts)
    return sorted(progress(results, what, len(prompts)), key=lambda result: places[result.prompt.id])


def _steps(guarded: SafeThink, result: Result) -> list[Context]:
    """A rollout cut into steps; a last piece without words is none."""
    trace = result.verdict.trace
    first = len(prefill_tokens(guarded.thought, result.prompt))
    starts = guarded.stopper.step_starts(trace, guarded.limits.max_step_tokens, first)
    steps = [
        Context(
            prompt=result.prompt,
            prompt_ids=result.prompt_ids,
            trace_ids=trace.ids[:start],
            step_ids=trace.ids[start:end],
            depth=depth,
        )
        for depth, (start, end) in enumerate(pairwise((*starts, len(trace))))
    ]
    return [step for step in steps if trace_text(guarded.thought, Tokens.sampled(step.step_ids)).strip()]


def _firings(guarded: SafeThink, result: Result, threshold: float) -> list[Context]:
    scores = result.verdict.step_scores
    scored = [(step, scores[step.depth]) for step in _steps(guarded, result) if step.depth < len(scores)]
    return [step.replace(score=value) for step, value in scored if value < threshold]


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
    judge = None if config.target_judge is None else build(config.target_judge).judge
    resampled = mine(guarded, states[: config.surplus * config.max_contexts], config, threshold, judge)
    mined = filled(guarded, resampled, split, config, threshold, judge)
    found = [context for context in mined if context.target_ids]
    if not found:
        fallbacks = f", nor any target of the fall-backs {', '.join(config.fallbacks)}" if config.fallbacks else ""
        raise SearchError(
            f"none of {config.best_of} continuations of any of {len(mined)} states passed the monitor{fallbacks}; "
            "raise contexts.best_of or lower the threshold"
        )
    return ContextSet(
        unsafe=tuple(spread(clearest(without_flukes(guarded.model, found)))[: config.max_contexts]),
        harmless=tuple(without_flukes(guarded.model, harmless_states(guarded, split.harmless, config.target_tokens))),
        num_watched=len(split.attacks),
        num_fired=len(fired),
        num_mined=len(mined),
        num_without_target=len(mined) - len(found),
        num_targets=(origins := counted(found)),
        dropped=tuple(context.name for context in mined if not context.target_ids) if origins else (),
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
    """Score of the target minus that of the violating step; to one digit, because finer differences are noise."""
    return round((context.target_score or 0.0) - (context.score or 0.0), 1)
