"""What a search would take, before anything is loaded: `--dry-run`."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from optimize.config import SearchConfig
from safethink.evaluation.plan import TESTBED_TOKENS, TESTBED_TOKENS_PER_S
from safethink.testbed.origin import is_testbed

TESTBED_SCORED_TOKENS_PER_S: Final = 40_000
"""Candidate tokens scored per second by the testbed's reasoner on two CPU cores."""


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


def plan(config: SearchConfig) -> SearchPlan:
    """Count what a search decodes and scores. Loads no model."""
    contexts, search, selection = config.contexts, config.search, config.selection
    prefixes = selection.finalists + selection.spread + 2  # Also nothing, and what the search began with.
    generations = {
        "rollouts": contexts.prompts + contexts.harmless_prompts,
        "mining": contexts.surplus * contexts.max_contexts * contexts.best_of,
        "validation_rollouts": contexts.prompts + selection.forced_prompts,
        "selection": prefixes * (selection.contexts + selection.forced_prompts) * selection.samples,
    }
    total = sum(generations.values())
    candidates = search.steps * search.candidates
    examples = contexts.max_contexts + (contexts.harmless_prompts if config.objective.benign_weight > 0 else 0)
    scored_tokens = candidates * examples * (search.length + contexts.target_tokens)
    on_testbed = is_testbed(config.run.reasoner.path)
    limits = config.run.limits
    decoded_tokens = total * (TESTBED_TOKENS if on_testbed else limits.max_trace_tokens + limits.max_answer_tokens)
    seconds = decoded_tokens / TESTBED_TOKENS_PER_S + scored_tokens / TESTBED_SCORED_TOKENS_PER_S
    return SearchPlan(
        generations=generations,
        decoded_tokens=decoded_tokens,
        candidates=candidates,
        scored_tokens=scored_tokens,
        seconds=seconds if on_testbed else None,
    )
