"""Contexts on policy: what the prefix fails on comes in, what it solves leaves."""

from __future__ import annotations

import pytest

from optimize.config import ContextsConfig
from optimize.contexts import ContextSet, collect_search, spread
from optimize.contexts.refresh import refresh, solved
from optimize.contexts.splits import Split
from safethink.config import LimitsConfig
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from tests.support import tiny_reasoner

LIMITS = LimitsConfig(max_step_tokens=6, max_trace_tokens=24, max_answer_tokens=6)
CONFIG = ContextsConfig(max_contexts=6, best_of=4, target_tokens=5, replay_share=0.5)
SPLIT = Split(
    "search",
    tuple(Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(8)),
    tuple(Prompt.from_text(f"add 3 and {n}", id=f"sum-{n}") for n in range(4)),
)


@pytest.fixture(scope="module")
def guarded() -> SafeThink:
    return SafeThink(
        tiny_reasoner.model(),
        tiny_reasoner.tokenizer(),
        monitor=lambda prompt, trace: 1.0 - 2.0 * (len(trace) % 2),
        limits=LIMITS,
    )


@pytest.fixture(scope="module")
def contexts(guarded) -> ContextSet:
    return collect_search(guarded, SPLIT, CONFIG, threshold=0.0)


@pytest.fixture(scope="module")
def prefix_ids(guarded) -> tuple[int, ...]:
    return tuple(guarded.tokenizer.encode("think safely", add_special_tokens=False))


def states(contexts) -> set[tuple[int, ...]]:
    return {context.ids for context in contexts.unsafe}


@pytest.mark.slow
def test_a_share_of_the_old_states_stays_the_unsolved_first(guarded, contexts, prefix_ids):
    fresh = refresh(guarded, SPLIT, contexts, prefix_ids, CONFIG, 0.0, round_index=1)
    kept = [context for context in fresh.unsafe if context.ids in states(contexts)]
    assert len(kept) >= 3
    assert len(fresh.unsafe) <= CONFIG.max_contexts
    reseeded = guarded.variant()
    reseeded.seed = fresh_seed(guarded)
    done = solved(reseeded, contexts.unsafe, prefix_ids, 0.0)
    unsolved = {context.ids for context, good in zip(contexts.unsafe, done, strict=True) if not good}
    assert sum(context.ids in unsolved for context in kept) >= min(3, len(unsolved))
    assert list(fresh.unsafe) == spread(fresh.unsafe)


def fresh_seed(guarded) -> int:
    from safethink.seeds import stable_seed

    return stable_seed(guarded.seed, "round", 1)


@pytest.mark.slow
def test_new_states_come_from_new_rollouts(guarded, contexts, prefix_ids):
    first, second = (refresh(guarded, SPLIT, contexts, prefix_ids, CONFIG, 0.0, index) for index in (1, 2))
    assert states(first) - states(contexts)
    assert states(first) != states(second)


@pytest.mark.slow
def test_without_replay_the_old_states_leave(guarded, contexts, prefix_ids):
    config = CONFIG.replace(replay_share=0.0)
    fresh = refresh(guarded, SPLIT, contexts, prefix_ids, config, 0.0, round_index=1)
    # A fresh rollout may by chance come through a state that was there before.
    assert len(states(fresh) & states(contexts)) < len(fresh.unsafe)


@pytest.mark.slow
def test_every_state_keeps_a_target_that_the_monitor_passes(guarded, contexts, prefix_ids):
    fresh = refresh(guarded, SPLIT, contexts, prefix_ids, CONFIG, 0.0, round_index=1)
    assert fresh.unsafe
    assert all(context.target_ids for context in fresh.unsafe)
    assert all(context.target_score is not None and context.target_score >= 0.0 for context in fresh.unsafe)


@pytest.mark.slow
def test_a_refresh_is_the_same_twice(guarded, contexts, prefix_ids):
    once, again = (refresh(guarded, SPLIT, contexts, prefix_ids, CONFIG, 0.0, round_index=1) for _ in range(2))
    assert once.fingerprint == again.fingerprint
