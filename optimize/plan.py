"""What a search, or collecting its contexts, would take, before anything is loaded: `--dry-run`."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from optimize.config import CollectConfig, ContextsConfig, SearchConfig
from optimize.study.config import StudyConfig
from safethink.config import RunConfig
from safethink.evaluation.plan import TESTBED_TOKENS, TESTBED_TOKENS_PER_S
from safethink.testbed.origin import is_testbed

TESTBED_SCORED_TOKENS_PER_S: Final = 40_000
"""Candidate tokens scored per second by the testbed's reasoner on two CPU cores."""
GRADIENT_PASSES: Final = {"soft": 2, "relaxed": 3}
"""Passes over the contexts in a step of a method with one candidate: a gradient is two, and PEZ also scores."""


class SearchPlan(BaseModel):
    """What is to be decoded and scored; upper bounds, since contexts are found on the way."""

    model_config = ConfigDict(frozen=True)

    generations: dict[str, int]
    """Rollouts and continuations, by stage."""
    decoded_tokens: int
    """Tokens to decode: about as many on the testbed, at most as many elsewhere."""
    candidates: int
    """Prefixes whose loss is computed."""
    scored_tokens: int
    """Tokens forwarded to compute them; the contexts' own tokens are forwarded once."""
    seconds: float | None
    """Rough time on two CPU cores; None where the speed is not known."""


class ContextsPlan(BaseModel):
    """What is to be decoded to collect contexts; upper bounds."""

    model_config = ConfigDict(frozen=True)

    generations: dict[str, int]
    """Rollouts and continuations, by stage."""
    decoded_tokens: int
    """Tokens to decode: about as many on the testbed, at most as many elsewhere."""
    seconds: float | None
    """Rough time on two CPU cores; None where the speed is not known."""


class StudyPlan(BaseModel):
    """What a study takes at most: pruned trials stop early, and trials share contexts."""

    model_config = ConfigDict(frozen=True)

    trials: int
    """Whole searches."""
    trial: SearchPlan
    """One of them, at the base's settings."""
    seconds: float | None
    """Rough time with the configured workers, two CPU cores for each; None where the speed is not known."""


def plan_contexts(config: CollectConfig) -> ContextsPlan:
    """Count what collecting contexts decodes. Loads no model."""
    generations = _collecting(config.contexts, config.forced_prompts)
    tokens = _decoded_tokens(generations, config.run)
    seconds = tokens / TESTBED_TOKENS_PER_S if is_testbed(config.run.reasoner.path) else None
    return ContextsPlan(generations=generations, decoded_tokens=tokens, seconds=seconds)


def plan(config: SearchConfig) -> SearchPlan:
    """Count what a search decodes and scores. Loads no model."""
    contexts, search, selection = config.contexts, config.search, config.selection
    prefixes = selection.finalists + selection.spread + 2  # Also nothing, and what the search began with.
    generations = _collecting(contexts, selection.forced_prompts) if contexts.path is None else {}
    generations["selection"] = prefixes * (selection.contexts + selection.forced_prompts) * selection.samples
    candidates = search.steps * (1 if search.kind in ("phrases", *GRADIENT_PASSES) else search.candidates)
    if search.kind == "phrases":
        generations["phrases"] = candidates * selection.contexts * selection.samples
        if search.budget_tokens is not None:
            affordable = search.budget_tokens // _tokens_per_generation(config.run)
            generations["phrases"] = min(generations["phrases"], affordable)
        scored_tokens = 0
    else:
        examples = contexts.max_contexts + (contexts.harmless_prompts if config.objective.benign_weight > 0 else 0)
        passes = GRADIENT_PASSES.get(search.kind, 1)
        scored_tokens = passes * candidates * examples * (search.length + contexts.target_tokens)
    if search.budget_tokens is not None:
        scored_tokens = min(scored_tokens, search.budget_tokens)
    decoded_tokens = _decoded_tokens(generations, config.run)
    seconds = decoded_tokens / TESTBED_TOKENS_PER_S + scored_tokens / TESTBED_SCORED_TOKENS_PER_S
    return SearchPlan(
        generations=generations,
        decoded_tokens=decoded_tokens,
        candidates=candidates,
        scored_tokens=scored_tokens,
        seconds=seconds if is_testbed(config.run.reasoner.path) else None,
    )


def plan_study(config: StudyConfig) -> StudyPlan:
    """Count what a study takes: its trials at the base's settings, and the prompts each is judged on."""
    one, kinds = plan(config.base), 3  # Attacks; tasks with and without a defense.
    judged = {"judging": kinds * config.prompts}
    seconds = None
    if one.seconds is not None:
        seconds = one.seconds + _decoded_tokens(judged, config.base.run) / TESTBED_TOKENS_PER_S
        seconds *= config.trials / config.workers
    return StudyPlan(trials=config.trials, trial=one, seconds=seconds)


def _collecting(contexts: ContextsConfig, forced_prompts: int) -> dict[str, int]:
    return {
        "rollouts": contexts.prompts + contexts.harmless_prompts,
        "mining": contexts.surplus * contexts.max_contexts * contexts.best_of,
        "validation_rollouts": contexts.prompts + forced_prompts,
    }


def _decoded_tokens(generations: dict[str, int], run: RunConfig) -> int:
    return sum(generations.values()) * _tokens_per_generation(run)


def _tokens_per_generation(run: RunConfig) -> int:
    longest = run.limits.max_trace_tokens + run.limits.max_answer_tokens
    return TESTBED_TOKENS if is_testbed(run.reasoner.path) else longest
