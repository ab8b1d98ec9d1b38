"""Costs told beforehand: what is counted, and how long a generation of each stage may get."""

from __future__ import annotations

from optimize.config import CollectConfig, ContextsConfig, ReflectConfig, SearchConfig, SelectionConfig, WriterConfig
from optimize.pipeline.dry_run import SearchPlan, plan, plan_contexts
from safethink.config import LimitsConfig, ReasonerConfig, RunConfig

LIMITS = LimitsConfig(max_step_tokens=10, max_trace_tokens=60, max_answer_tokens=40)
CONTEXTS = ContextsConfig(prompts=20, harmless_prompts=4, max_contexts=5, surplus=2, best_of=3)


def run(path: str) -> RunConfig:
    return RunConfig(reasoner=ReasonerConfig(path=path), limits=LIMITS)


def test_fall_backs_of_targets_are_counted_where_they_may_be_needed() -> None:
    counted = plan_contexts(CollectConfig(run=run("some/reasoner"), contexts=CONTEXTS, forced_prompts=6))
    assert counted.generations == {
        "rollouts": 24,
        "mining": 30,
        "validation_rollouts": 26,
        "mining_behind_prefixes": 90,
        "own_refusals": 20,
    }
    # Whole outputs, and single steps.
    assert counted.decoded_tokens == (24 + 26 + 20) * 100 + (30 + 90) * 10


def test_without_fall_backs_and_on_the_testbed_there_are_none() -> None:
    none = CONTEXTS.replace(fallbacks=())
    for config in (
        CollectConfig(run=run("some/reasoner"), contexts=none),
        CollectConfig(run=run("testbed"), contexts=CONTEXTS),
    ):
        assert set(plan_contexts(config).generations) == {"rollouts", "mining", "validation_rollouts"}


def test_candidates_that_are_not_measured_are_not_counted() -> None:
    contexts = CONTEXTS.replace(path="shared")
    measured = {
        count: plan(
            SearchConfig(run=run("testbed"), contexts=contexts, selection=SelectionConfig(measured=count))
        ).generations.get("measuring")
        for count in (0, 8)
    }
    assert measured == {0: None, 8: 40}


def test_lists_of_phrases_and_the_requests_for_them_are_counted_within_the_budget() -> None:
    def planned(**changes) -> SearchPlan:
        search = ReflectConfig(**{"steps": 10, "lists": 3, "list_tokens": 20, "candidates": 2} | changes)
        contexts = CONTEXTS.replace(path="shared")
        return plan(SearchConfig(run=run("some/reasoner"), contexts=contexts, search=search))

    whole = planned()
    assert whole.generations["lists"] == 30
    assert whole.decoded_tokens - planned(lists=4).decoded_tokens == -10 * 20
    assert planned(traces=5).scored_tokens - whole.scored_tokens == 10 * 2 * ReflectConfig().trace_tokens
    assert planned(shown=0).scored_tokens < whole.scored_tokens
    short = planned(budget_tokens=100)
    assert short.generations["lists"] == 5
    assert short.scored_tokens < whole.scored_tokens


def test_a_writer_of_its_own_takes_memory_of_its_own() -> None:
    def needed(writer: WriterConfig | None) -> float | None:
        return plan(SearchConfig(run=run("testbed"), search=ReflectConfig(writer=writer))).memory_gib

    alone, both = needed(None), needed(WriterConfig(path="testbed"))
    assert alone is not None
    assert both is not None
    assert both > alone
    assert needed(WriterConfig(path="no/such-model")) is None
