"""Rollouts with the monitor watching and nothing injected, cut into steps."""

from __future__ import annotations

from collections.abc import Sequence

from optimize.contexts.states import Context
from optimize.splits import Split
from safethink.config import DefenseConfig, NoneConfig, SafeThinkConfig
from safethink.errors import SearchError
from safethink.guarded import SafeThink
from safethink.progress import progress
from safethink.prompts import Prompt
from safethink.runtime.result import Result
from safethink.seeds import stable_seed
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
    watching = SafeThinkConfig(threshold=threshold, max_steered_steps=0)
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
            contexts.append(step.model_copy(update={"target_ids": step.step_ids[:target_tokens]}))
    return tuple(contexts)


def _roll_out(guarded: SafeThink, prompts: Sequence[Prompt], defense: DefenseConfig, what: str) -> list[Result]:
    places = {prompt.id: place for place, prompt in enumerate(prompts)}
    results = guarded.variant(defense=defense).as_finished((prompt, 0) for prompt in prompts)
    return sorted(progress(results, what, len(prompts)), key=lambda result: places[result.prompt.id])


def _steps(guarded: SafeThink, result: Result) -> list[Context]:
    """A rollout cut into steps; a last piece without words is none."""
    trace = result.verdict.trace
    first = len(guarded.thought.prefill(result.prompt))
    starts = guarded.stopper.step_starts(trace, guarded.limits.max_step_tokens, first)
    steps = [
        Context(
            prompt=result.prompt,
            prompt_ids=result.prompt_ids,
            trace_ids=trace.ids[:start],
            step_ids=trace.ids[start:end],
            depth=depth,
        )
        for depth, (start, end) in enumerate(zip(starts, (*starts[1:], len(trace)), strict=True))
    ]
    return [step for step in steps if guarded.thought.trace_text(Tokens.sampled(step.step_ids)).strip()]


def _firings(guarded: SafeThink, result: Result, threshold: float) -> list[Context]:
    scores = result.verdict.step_scores
    scored = [(step, scores[step.depth]) for step in _steps(guarded, result) if step.depth < len(scores)]
    return [step.model_copy(update={"score": value}) for step, value in scored if value < threshold]
