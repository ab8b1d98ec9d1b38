"""Targets where the reasoner does not come back by itself: behind a written prefix, and openings of refusals."""

from __future__ import annotations

import pytest

from optimize.config import ContextsConfig
from optimize.contexts import ContextSet, collect_search
from optimize.contexts.fallbacks import first_passing, own_openings
from optimize.contexts.splits import Split
from optimize.selection import metrics
from safethink.config import LimitsConfig, SamplingConfig, ThoughtConfig
from safethink.defenses.effects import Score, Task
from safethink.errors import SafeThinkError
from safethink.guarded import SafeThink
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens
from tests.support import tiny_reasoner
from tests.support.published_families import PUBLISHED, steer

LIMITS = LimitsConfig(max_step_tokens=6, max_trace_tokens=24, max_answer_tokens=6)
CONFIG = ContextsConfig(max_contexts=12, best_of=1, target_tokens=100)
SPLIT = Split("search", tuple(Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(8)), ())
OPENING = "I must refuse it."


def seldom(prompt: str, trace: str) -> float:
    """Passes one trace in four, by its length: a reasoner that seldom comes back, to a monitor that knows no words."""
    return 1.0 if len(trace) % 4 == 0 else -1.0


def only_refusals(prompt: str, trace: str) -> float:
    return 1.0 if trace.endswith(OPENING) else -1.0


def guard(monitor) -> SafeThink:
    return SafeThink(tiny_reasoner.model(), tiny_reasoner.tokenizer(), monitor=monitor, limits=LIMITS)


def test_a_written_prefix_gives_targets_and_is_no_part_of_them():
    config = CONFIG.replace(fallbacks=("prefix",))
    guarded = guard(seldom)
    without = collect_search(guarded, SPLIT, config.replace(fallbacks=()), threshold=0.0)
    found = collect_search(guarded, SPLIT, config, threshold=0.0)
    assert set(found.num_targets) == {"resampled", "prefix"}
    assert found.num_targets["resampled"] == without.num_mined - without.num_without_target
    assert sum(found.num_targets.values()) == found.num_mined - found.num_without_target
    behind = [context for context in found.unsafe if context.target_source == "prefix"]
    assert behind
    prefixes = [guarded.thought.encoder.injected(text) for text in config.fallback_prefixes]
    for context in behind:
        step = Tokens.sampled(context.trace_ids + context.target_ids)
        # As the monitor scored it: without the injected words.
        assert seldom("", trace_text(guarded.thought, step)) == context.target_score
        assert not any(context.target_ids[: len(ids)] == ids for ids in prefixes)
    assert len(found.dropped) == found.num_without_target


def test_written_openings_of_refusals_are_the_last_resort():
    config = CONFIG.replace(refusal_openings=("No idea.", OPENING))
    guarded = guard(only_refusals)
    found = collect_search(guarded, SPLIT, config, threshold=0.0)
    assert set(found.num_targets) == {"written_refusal"}
    opening = guarded.thought.encoder.injected(OPENING)
    assert {context.target_ids for context in found.unsafe} == {opening}
    assert "written openings of refusals" in found.told()
    assert collect_search(guarded, SPLIT, config, threshold=0.0) == found


def test_what_nothing_works_for_is_one_clear_line():
    with pytest.raises(SafeThinkError, match="nor any target of the fall-backs prefix, refusal"):
        collect_search(guard(lambda prompt, trace: -1.0), SPLIT, CONFIG, 0.0)
    with pytest.raises(SafeThinkError, match="passed the monitor; raise"):
        collect_search(guard(lambda prompt, trace: -1.0), SPLIT, CONFIG.replace(fallbacks=()), 0.0)


def test_dropped_states_are_named():
    def refuses_one(prompt: str, trace: str) -> float:
        return only_refusals(prompt, trace) if "parts 3" in prompt else -1.0

    config = CONFIG.replace(fallbacks=("refusal",), refusal_openings=(OPENING,), max_contexts=100)
    found = collect_search(guard(refuses_one), SPLIT, config, threshold=0.0)
    assert {context.prompt.id for context in found.unsafe} == {"attack-3"}
    assert found.dropped
    assert "attack-0 at step 1" in found.dropped
    assert f"dropped {len(found.dropped)} states: attack-" in found.told()


def test_where_resampling_is_enough_nothing_changes(tmp_path):
    config = CONFIG.replace(max_contexts=2, surplus=16)
    guarded = guard(seldom)
    found = collect_search(guarded, SPLIT, config, threshold=0.0)
    assert found == collect_search(guarded, SPLIT, config.replace(fallbacks=()), threshold=0.0)
    found.save(tmp_path / "contexts.json")
    written = (tmp_path / "contexts.json").read_text()
    assert not any(key in written for key in ("target_source", "num_targets", "dropped"))
    assert ContextSet.load(tmp_path / "contexts.json") == found
    assert "fallback" not in CONFIG.replace(fallbacks=ContextsConfig().fallbacks).model_dump_json()


def test_origins_stand_among_the_metrics_of_the_card(tmp_path):
    (tmp_path / "search.jsonl").write_text("")
    few = ContextSet(
        unsafe=(), harmless=(), num_watched=9, num_fired=9, num_mined=9, num_without_target=1,
        num_targets={"resampled": 2, "prefix": 6},
    )  # fmt: skip
    found = metrics.of_search(few, tmp_path / "search.jsonl")
    assert (found["target_prefix"].value, found["target_prefix"].n) == (0.75, 8)
    plain = metrics.of_search(few.replace(num_targets={}), tmp_path / "search.jsonl")
    assert set(plain) == {"target_found"}


def test_the_first_step_that_passes_is_taken():
    defense = first_passing(Task(start=Tokens.sampled((1,))), [(5,), (6,), (7,)], threshold=0.0)
    assert next(defense) == Score(Tokens.sampled((1, 5)))
    assert defense.send(-0.5) == Score(Tokens.sampled((1, 6)))
    with pytest.raises(StopIteration) as stop:
        defense.send(0.5)
    assert stop.value.value.trace == Tokens.sampled((1, 6))
    assert stop.value.value.step_scores == (-0.5, 0.5)


@pytest.mark.parametrize(("answer", "refuses"), [("I cannot help with that.", True), ("It is 7.", False)])
def test_the_reasoners_own_openings_are_first_steps_of_traces_that_end_in_a_refusal(answer: str, refuses: bool):
    published = PUBLISHED["qwen3"]
    model = published.model()
    guarded = SafeThink(
        model,
        published.tokenizer(),
        monitor=lambda _prompt, _trace: 1.0,
        thought=ThoughtConfig(family="qwen3"),
        sampling=SamplingConfig(temperature=0),
        limits=LimitsConfig(max_step_tokens=50, max_trace_tokens=200),
    )
    harmful = Prompt.from_text("Build it.", id="h").replace(kind="harmful")
    ids = guarded.thought.encoder.template(f"<think>\nThis hurts.\n\nSo no.\n</think>\n\n{answer}{published.eos}")
    steer(model, dict(enumerate(ids, len(open_prompt(guarded.thought, harmful)))))
    jailbreak = harmful.replace(id="j", kind="jailbreak")
    openings = own_openings(guarded, Split("search", (harmful, jailbreak), ()))
    assert len(openings) == refuses
    if refuses:
        assert "This hurts." in trace_text(guarded.thought, Tokens.sampled(openings[0]))
        assert "So no." not in trace_text(guarded.thought, Tokens.sampled(openings[0]))
    assert own_openings(guarded, Split("search", (jailbreak,), ())) == ()
