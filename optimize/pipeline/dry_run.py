"""Cost estimate of a search, or of collecting its contexts, before it begins: `--dry-run`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from optimize.config import (
    BeamConfig,
    CollectConfig,
    ContextsConfig,
    EvolutionConfig,
    GcgConfig,
    MethodConfig,
    PhrasesConfig,
    ReflectConfig,
    RelaxedConfig,
    SearchConfig,
    SoftConfig,
)
from safethink.config import RunConfig
from safethink.evaluation.plan import TESTBED_TOKENS
from safethink.evaluation.speed import speed
from safethink.frozen import Frozen
from safethink.models.placement import PROMPT_TOKENS, decoding_gib, footprint, gib
from safethink.testbed.origin import is_testbed

if TYPE_CHECKING:
    from optimize.pipeline.probe import SearchPace, Trial

REWARD: Final = "reward"
"""Stage in which an objective samples on policy."""
ONE_STEP: Final = ("mining", "mining_behind_prefixes", REWARD)
"""Stages whose generations end with a step."""
LISTS: Final = "lists"
"""Stage whose generations are lists of phrases, which a section limits by itself."""
REQUEST_TOKENS: Final = 128
"""About as many tokens as a request for phrases has beside the traces and phrases that it shows."""


class SearchTime(Frozen):
    """Time of the search itself, from two steps of it that were tried."""

    seconds_per_step: float
    """Of the second step that was tried."""
    tokens_per_step: int
    """Tokens that it forwarded, gradients counted twice."""
    tokens_per_second: float
    """Tokens forwarded a second, once warm."""
    first_seconds: float
    """Reading the contexts and the first step, which warms up; again in each round of contexts."""
    steps: int
    """Steps until steps or tokens are spent."""
    seconds: int
    """Time of all of them."""


class SearchPlan(Frozen):
    """Compute, time and memory to decode and score; upper bounds, since contexts are found on the way."""

    generations: dict[str, int]
    """Rollouts and continuations, by stage."""
    decoded_tokens: int
    """Tokens to decode: about as many on the testbed, at most as many elsewhere."""
    candidates: int
    """Prefixes whose loss is computed."""
    scored_tokens: int
    """Tokens forwarded to compute them, gradients counted twice."""
    budget_tokens: int | None
    """Tokens after which the search ends; None leaves it to its steps."""
    seconds: int | None
    """Rough time; None where the speed is not known."""
    timed_by: str
    """Source of the speed that the time is estimated from."""
    memory_gib: float | None
    """Weights, keys, values and logits, without what a gradient keeps; None where a model is not on this machine."""
    search: SearchTime | None = None
    """Time of the search, a part of `seconds`; None where none of its steps was tried."""


class ContextsPlan(Frozen):
    """Compute, time and memory to collect contexts; upper bounds."""

    generations: dict[str, int]
    """Rollouts and continuations, by stage."""
    decoded_tokens: int
    """Tokens to decode: about as many on the testbed, at most as many elsewhere."""
    seconds: int | None
    """Rough time; None where the speed is not known."""
    timed_by: str
    """Source of the speed that the time is estimated from."""
    memory_gib: float | None
    """Weights, keys and values; None where a model is not on this machine."""


def plan_contexts(config: CollectConfig, probe: bool = False) -> ContextsPlan:
    """Count what collecting contexts decodes; `probe` says whether a reasoner of unknown speed is loaded and tried."""
    generations = _collecting(config.contexts, config.forced_prompts, config.run)
    tokens = num_decoded(generations, config.run)
    pace = speed(config.run, probe)
    return ContextsPlan(
        generations=generations,
        decoded_tokens=tokens,
        seconds=pace.seconds(tokens),
        timed_by=pace.source,
        memory_gib=decoding_gib(config.run),
    )


def plan(config: SearchConfig, probe: bool = False, trial: Trial | None = None) -> SearchPlan:
    """Count what a search decodes and scores.

    Args:
        config: the search.
        probe: whether a reasoner of unknown speed is loaded and tried, where there is no trial.
        trial: speed of the search, where it was tried.
    """
    search = config.search
    contexts, forced = config.contexts, config.selection.forced_prompts
    generations = _collecting(contexts, forced, config.run) if contexts.path is None else {}
    generations |= _searching(config)
    candidates = search.steps * (search.candidates if _scores_many(search) else 1)
    scored_tokens = _scored_tokens(config)
    decoded_tokens = num_decoded(generations, config.run) + _written_tokens(config, generations)
    decoding = speed(config.run, probe) if trial is None else trial.decoding
    seconds, timed = decoding.seconds(decoded_tokens, scored_tokens), None
    if trial is not None and trial.pace is not None:
        timed = _search_time(config, trial.pace)
        # What the objective samples, or a method writes, is a part of the steps that were tried.
        outside = {stage: count for stage, count in generations.items() if stage != REWARD}
        decoding_s = decoding.seconds(num_decoded(outside, config.run))
        seconds = None if decoding_s is None else decoding_s + timed.seconds
    return SearchPlan(
        generations=generations,
        decoded_tokens=decoded_tokens,
        candidates=candidates,
        scored_tokens=scored_tokens,
        budget_tokens=search.budget_tokens,
        seconds=seconds,
        timed_by=decoding.source if trial is None else trial.source,
        memory_gib=_memory_gib(config),
        search=timed,
    )


def _search_time(config: SearchConfig, pace: SearchPace) -> SearchTime:
    """Time of a search whose every step takes what the second one took."""
    search, steps = config.search, pace.steps(config.search)
    seconds = pace.seconds(steps, _num_rounds(config))
    if isinstance(search, SoftConfig) and search.harden:
        # PEZ, with as many steps and tokens again.
        tokens = search.steps * pace.step_tokens * _passes(RelaxedConfig()) / _passes(search)
        seconds += min(tokens, search.budget_tokens or math.inf) / pace.tokens_per_s
    return SearchTime(
        seconds_per_step=round(pace.step_s, 3),
        tokens_per_step=pace.step_tokens,
        tokens_per_second=round(pace.tokens_per_s, 1),
        first_seconds=round(pace.first_s, 3),
        steps=steps,
        seconds=round(seconds),
    )


def _num_rounds(config: SearchConfig) -> int:
    """Rounds of contexts."""
    return math.ceil(config.search.steps / (config.contexts.refresh_every_steps or config.search.steps))


def _collecting(contexts: ContextsConfig, forced_prompts: int, run: RunConfig) -> dict[str, int]:
    mined = contexts.surplus * contexts.max_contexts * contexts.best_of
    wanted = {
        "rollouts": contexts.prompts + contexts.harmless_prompts,
        "mining": mined,
        "validation_rollouts": contexts.prompts + forced_prompts,
    }
    if is_testbed(run.reasoner.path):
        return wanted  # Its reasoner comes back by itself.
    if "prefix" in contexts.fallbacks:
        wanted["mining_behind_prefixes"] = mined * len(contexts.fallback_prefixes)
    if "refusal" in contexts.fallbacks:
        wanted["own_refusals"] = contexts.prompts
    return wanted


def _searching(config: SearchConfig) -> dict[str, int]:
    """Numbers of generations of a search once it has its contexts, by stage."""
    contexts, search, reward, selection = config.contexts, config.search, config.objective.reward, config.selection
    rounds = _num_rounds(config)
    prefixes = selection.finalists + selection.spread + 2  # Also nothing, and what the search began with.
    prefixes += isinstance(search, SoftConfig) and search.harden
    tried = selection.contexts * selection.samples
    wanted = {
        # Rolled out and mined anew, old states too; what the best prefix so far solves.
        "refreshing": (rounds - 1)
        * (
            contexts.prompts
            + contexts.harmless_prompts
            + (contexts.surplus + 1) * contexts.max_contexts * (contexts.best_of + 1)
        ),
        "measuring": rounds * selection.measured * contexts.max_contexts,
        REWARD: search.steps * reward.contexts * (reward.samples + 1) if config.objective.reward_weight else 0,
        "phrases": search.steps * tried if search.kind == "phrases" else 0,
        LISTS: search.steps * search.lists if isinstance(search, ReflectConfig) else 0,
        "selection": prefixes * (tried + selection.forced_prompts * selection.samples),
    }
    if search.kind == "phrases" and search.budget_tokens is not None:
        wanted["phrases"] = min(wanted["phrases"], search.budget_tokens // _tokens_per_generation(config.run))
    if isinstance(search, ReflectConfig) and search.budget_tokens is not None:
        wanted[LISTS] = min(wanted[LISTS], math.ceil(search.budget_tokens / search.list_tokens))
    return {stage: count for stage, count in wanted.items() if count}


def _scores_many(search: MethodConfig) -> bool:
    """Whether a step scores as many candidates as are configured."""
    return not isinstance(search, SoftConfig | RelaxedConfig | PhrasesConfig)


def _passes(search: MethodConfig) -> int:
    """Prefixes read in all contexts in a step; a gradient is two."""
    match search:
        case SoftConfig():
            return 2
        case RelaxedConfig():
            return 3
        case GcgConfig():
            return search.candidates + 2
        case EvolutionConfig():
            return search.candidates + 3 * search.population
        case BeamConfig():
            return search.candidates + search.beams
        case _:
            return search.candidates


def _scored_tokens(config: SearchConfig) -> int:
    """Tokens that the objective forwards, the contexts' own included."""
    search, objective, reward = config.search, config.objective, config.objective.reward
    if isinstance(search, PhrasesConfig):
        # How far a phrase moves harmless continuations is all that is read.
        held = config.contexts.harmless_prompts if search.max_kl is not None else 0
        each = search.length + config.contexts.target_tokens
        return held * (PROMPT_TOKENS + config.run.limits.max_trace_tokens + search.steps * each)
    unsafe, harmless = config.contexts.max_contexts, config.contexts.harmless_prompts
    read = unsafe * bool(objective.continuation_weight or objective.nll_weight)
    read += unsafe * bool(objective.unlikelihood_weight)
    read += harmless * bool(objective.benign_weight or objective.benign_kl_weight)
    behind = read * (search.length + config.contexts.target_tokens)
    if objective.reward_weight:
        # Beside the samples the greedy continuation and the best so far.
        read += reward.contexts
        behind += reward.contexts * (reward.samples + 2) * (search.length + reward.continuation_tokens)
    hardened = _passes(RelaxedConfig()) if isinstance(search, SoftConfig) and search.harden else 0
    scored = search.steps * ((_passes(search) + hardened) * behind + _request_tokens(search))
    if search.budget_tokens is not None:
        scored = min(scored, search.budget_tokens * (2 if hardened else 1))
    return scored + read * (PROMPT_TOKENS + config.run.limits.max_trace_tokens)


def _request_tokens(search: MethodConfig) -> int:
    """Tokens of a step's request for phrases; none of a method that asks for none."""
    if not isinstance(search, ReflectConfig):
        return 0
    return REQUEST_TOKENS + search.traces * search.trace_tokens + search.shown * search.length


def _memory_gib(config: SearchConfig) -> float | None:
    """The more of decoding and of scoring: all models stay, and either has keys and values of its own."""
    decoding, reasoner = decoding_gib(config.run), footprint(config.run.reasoner)
    if decoding is None or reasoner is None:
        return None
    contexts, sampled = config.contexts, config.objective.reward
    longest = max(contexts.target_tokens, sampled.continuation_tokens if config.objective.reward_weight else 0)
    behind = config.search.length + longest
    num_contexts, num_rows = contexts.max_contexts + contexts.harmless_prompts, config.objective.rows_per_forward
    held, rows = num_contexts * (PROMPT_TOKENS + config.run.limits.max_trace_tokens), num_rows * behind
    cached = (held + rows) * reasoner.position_bytes + (num_contexts + num_rows) * reasoner.state_bytes
    needed = max(decoding, gib(cached + rows * reasoner.logits_bytes + reasoner.weights_bytes))
    writer = config.search.writer if isinstance(config.search, ReflectConfig) else None
    if writer is None or writer.server is not None:
        return needed
    beside = footprint(writer)
    return None if beside is None else needed + gib(beside.weights_bytes)


def num_decoded(generations: dict[str, int], run: RunConfig) -> int:
    """Tokens that generations of a run decode: about as many on the testbed, at most as many elsewhere.

    Lists of phrases are left out, which are no outputs of the run.
    """
    return sum(count * _tokens_per_generation(run, stage) for stage, count in generations.items() if stage != LISTS)


def _written_tokens(config: SearchConfig, generations: dict[str, int]) -> int:
    """The most tokens of the lists of phrases that a search has written."""
    return generations.get(LISTS, 0) * config.search.list_tokens if isinstance(config.search, ReflectConfig) else 0


def _tokens_per_generation(run: RunConfig, stage: str = "") -> int:
    if stage in ONE_STEP and not is_testbed(run.reasoner.path):
        return min(run.limits.max_step_tokens, run.limits.max_trace_tokens)
    longest = run.limits.max_trace_tokens + run.limits.max_answer_tokens
    return TESTBED_TOKENS if is_testbed(run.reasoner.path) else longest
