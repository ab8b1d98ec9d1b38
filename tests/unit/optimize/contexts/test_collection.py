"""Where the monitor fires, what would have been safe there, and what is kept of it."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from torch.nn import functional

from optimize.config import ContextsConfig
from optimize.contexts import Context, ContextSet, collect_search, collect_validation, collection, spread
from optimize.contexts.mining import best_of, without_flukes
from optimize.contexts.splits import Split, of_file, of_prompts, of_testbed
from safethink.config import LimitsConfig, RefusalJudgeConfig, WorldConfig
from safethink.defenses.effects import Extend, Extension, Score, Task, Until
from safethink.errors import ConfigError, SafeThinkError
from safethink.guarded import SafeThink
from safethink.judges import Judgement
from safethink.judges.build import BuiltJudge
from safethink.prompts import Prompt
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens
from tests.support import tiny_reasoner

LIMITS = LimitsConfig(max_step_tokens=6, max_trace_tokens=24, max_answer_tokens=6)
CONFIG = ContextsConfig(max_contexts=6, best_of=4, target_tokens=5)
ATTACKS = tuple(Prompt.from_text(f"mix the parts {n}", id=f"attack-{n}") for n in range(8))
HARMLESS = tuple(Prompt.from_text(f"add 3 and {n}", id=f"sum-{n}") for n in range(4))
SPLIT = Split("search", ATTACKS, HARMLESS)


def by_length(prompt: str, trace: str) -> float:
    """Fires on every other length of a trace: often, and for no reason."""
    return 1.0 - 2.0 * (len(trace) % 2)


def guard(monitor=by_length) -> SafeThink:
    return SafeThink(tiny_reasoner.model(), tiny_reasoner.tokenizer(), monitor=monitor, limits=LIMITS)


@pytest.fixture(scope="module")
def guarded() -> SafeThink:
    return guard()


@pytest.fixture(scope="module")
def searched(guarded) -> ContextSet:
    return collect_search(guarded, SPLIT, CONFIG, threshold=0.0)


class EvenPrompts:
    """A judge that calls the outputs of every other prompt refusals, and keeps the traces that it was shown."""

    def __init__(self) -> None:
        self.traces: dict[str, list[str]] = defaultdict(list)

    def judge(self, prompt: Prompt, trace: str, answer: str, closed: bool) -> Judgement:
        self.traces[prompt.id].append(trace)
        outcome = "refusal" if is_even(prompt) else "harmful"
        return Judgement(outcome, trace_harmful=None, correct=None)

    def drifted(self, prompt: Prompt, trace: str) -> None:
        return None


def is_even(prompt: Prompt) -> bool:
    return int(prompt.id[-1]) % 2 == 0


def state(depth: int, name: str = "p") -> Context:
    return Context(
        prompt=Prompt.from_text("x", id=name), prompt_ids=(1,), trace_ids=(2,) * depth, step_ids=(3,), depth=depth
    )


def test_the_monitor_fires_at_the_step_and_passes_the_target(guarded, searched):
    assert 0 < len(searched.unsafe) <= CONFIG.max_contexts
    for context in searched.unsafe:
        trace = Tokens.sampled(context.trace_ids)
        prompt = context.prompt.text
        assert context.score is not None
        assert context.score < 0
        assert by_length(prompt, trace_text(guarded.thought, trace + Tokens.sampled(context.step_ids))) == context.score
        assert 0 < len(context.target_ids) <= CONFIG.target_tokens
        assert context.prompt_ids == open_prompt(guarded.thought, context.prompt)
        assert context.ids == context.prompt_ids + context.trace_ids


@pytest.mark.slow
def test_clearer_states_and_first_firings_are_preferred():
    def sure(prompt: str, trace: str) -> float:
        return by_length(prompt, trace) / (1 + len(trace) % 5)

    guarded = guard(sure)
    many = collect_search(guarded, SPLIT, CONFIG.replace(max_contexts=100), threshold=0.0)
    assert list(many.unsafe) == spread(many.unsafe)
    by_depth = defaultdict(list)
    for context in many.unsafe:
        by_depth[context.depth].append(round((context.target_score or 0.0) - (context.score or 0.0), 1))
    assert all(margins == sorted(margins, reverse=True) for margins in by_depth.values())
    assert len(by_depth) > 1
    assert any(len(set(margins)) > 1 for margins in by_depth.values())
    few = collect_search(guarded, SPLIT, CONFIG.replace(max_contexts=2), threshold=0.0)
    firsts = {context.prompt.id: context for context in collect_validation(guarded, SPLIT, CONFIG, 0.0).unsafe}
    assert few.num_mined == 8
    assert all(context.trace_ids == firsts[context.prompt.id].trace_ids for context in few.unsafe)


def test_with_a_judge_a_target_counts_only_where_the_output_behind_it_ends_well(guarded, searched, monkeypatch):
    judge, built = EvenPrompts(), []
    monkeypatch.setattr(collection, "build", lambda section: built.append(section) or BuiltJudge("even", judge, "0"))
    confirmed = collect_search(guarded, SPLIT, CONFIG.replace(target_judge=RefusalJudgeConfig()), threshold=0.0)
    assert {is_even(each.prompt) for each in searched.unsafe} == {True, False}
    assert {is_even(each.prompt) for each in confirmed.unsafe} == {True}
    assert confirmed.num_without_target > searched.num_without_target
    assert built == [RefusalJudgeConfig()], "a judge with weights is loaded once"
    for context in confirmed.unsafe:
        behind = trace_text(guarded.thought, Tokens.sampled(context.trace_ids + context.target_ids))
        assert any(trace.startswith(behind) for trace in judge.traces[context.prompt.id])


def test_counts_add_up(searched):
    assert searched.num_watched == len(ATTACKS)
    assert 0 < searched.num_fired <= searched.num_watched
    assert len(searched.unsafe) <= searched.num_mined - searched.num_without_target


def test_harmless_contexts_go_on_with_the_reasoners_own_words(searched):
    assert [context.prompt for context in searched.harmless] == list(HARMLESS)
    for context in searched.harmless:
        assert context.target_ids == context.step_ids[: CONFIG.target_tokens]
        assert context.score is None


def test_validation_takes_the_first_firing_of_each_rollout(guarded):
    validation = collect_validation(guarded, Split("validation", ATTACKS, HARMLESS), CONFIG, threshold=0.0)
    ids = [context.prompt.id for context in validation.unsafe]
    assert len(ids) == len(set(ids)) == validation.num_fired
    for context in validation.unsafe:
        trace = trace_text(guarded.thought, Tokens.sampled(context.trace_ids))
        assert context.depth == 0 or by_length("", trace) >= 0


@pytest.mark.slow
def test_collecting_twice_gives_the_same_and_survives_the_disk(guarded, searched, tmp_path):
    again = collect_search(guarded, SPLIT, CONFIG, threshold=0.0)
    assert again == searched
    searched.save(tmp_path / "contexts.json")
    loaded = ContextSet.load(tmp_path / "contexts.json")
    assert loaded == searched
    assert loaded.fingerprint == searched.fingerprint


def test_the_fingerprint_sees_every_token(searched):
    first = searched.unsafe[0]
    changed = first.replace(target_ids=(*first.target_ids[:-1], first.target_ids[-1] + 1))
    assert searched.replace(unsafe=(changed, *searched.unsafe[1:])).fingerprint != searched.fingerprint


@pytest.mark.parametrize("collect", [collect_search, collect_validation])
def test_a_monitor_that_never_fires_is_one_clear_line(collect):
    with pytest.raises(SafeThinkError, match="never fired on 8 search prompts") as error:
        collect(guard(lambda prompt, trace: 1.0), SPLIT, CONFIG, 0.0)
    assert "\n" not in str(error.value)


def test_a_monitor_that_passes_nothing_is_one_clear_line():
    with pytest.raises(SafeThinkError, match="passed the monitor"):
        collect_search(guard(lambda prompt, trace: -1.0), SPLIT, CONFIG, 0.0)


def test_the_least_likely_tenth_of_the_targets_is_left_out(guarded, searched):
    model, context = guarded.model, searched.harmless[0]
    rows = torch.randint(3, 300, (20, 4), generator=torch.Generator().manual_seed(0)).tolist()
    contexts = [context.replace(target_ids=tuple(row)) for row in rows]

    def loss(context: Context) -> float:
        ids = torch.tensor([context.ids + context.target_ids])
        with torch.no_grad():
            return functional.cross_entropy(model(ids).logits[0, -5:-1], ids[0, -4:]).item()

    likely = sorted(contexts, key=loss)[:18]
    assert without_flukes(model, contexts) == [context for context in contexts if context in likely]
    assert without_flukes(model, contexts[:9]) == contexts[:9]
    assert without_flukes(model, []) == []


def test_any_beginning_of_a_spread_is_balanced_over_depths():
    states = [state(0, f"a{n}") for n in range(5)] + [state(1, "b")] + [state(3, f"c{n}") for n in range(3)]
    assert [each.depth for each in spread(states)] == [0, 1, 3, 0, 3, 0, 3, 0, 0]
    assert sorted(each.prompt.id for each in spread(states)) == sorted(each.prompt.id for each in states)


def test_best_of_keeps_the_step_the_monitor_likes_best_and_injects_nothing():
    start = Tokens.sampled((1, 2))
    defense = best_of(Task(start=start), 3)
    assert next(defense) == Extend(start, Until.STEP)
    for token, score in ((10, -0.5), (11, 0.9)):
        assert defense.send(Extension(Tokens.sampled((token,)), "step")) == Score(start + Tokens.sampled((token,)))
        assert defense.send(score) == Extend(start, Until.STEP)
    defense.send(Extension(Tokens.sampled((12,)), "step"))
    with pytest.raises(StopIteration) as stop:
        defense.send(0.1)
    verdict = stop.value.value
    assert verdict.trace == Tokens.sampled((1, 2, 11))
    assert verdict.step_scores == (-0.5, 0.9, 0.1)


def test_own_prompts_are_split_by_group_and_by_name(tmp_path):
    prompts = [Prompt.from_text(f"mix {n}", id=str(n)).replace(clusters={"group": str(n // 3)}) for n in range(30)]
    search, validation = of_prompts(prompts)
    assert {p.id for p in search.attacks} | {p.id for p in validation.attacks} == {p.id for p in prompts}
    assert not {p.clusters["group"] for p in search.attacks} & {p.clusters["group"] for p in validation.attacks}
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "split": "search"}\n{"prompt": "b", "split": "validation", "label": "harmless"}\n')
    named = of_file(path)
    assert [p.text for p in named[0].attacks] == ["a"]
    assert [p.text for p in named[1].harmless] == ["b"]


def test_prompts_that_leave_nothing_to_choose_on_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="too few"):
        of_prompts(ATTACKS[:1])
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a", "split": "search"}\n')
    with pytest.raises(ConfigError, match="no prompts of the split 'validation'"):
        of_file(path)


def test_the_testbeds_splits_share_no_wrapper_and_mix_harmless_with_borderline():
    search, validation = (of_testbed(name, 40, 5, WorldConfig()) for name in ("search", "validation"))
    wrappers = [{prompt.clusters["wrapper"] for prompt in split.attacks} for split in (search, validation)]
    assert not wrappers[0] & wrappers[1]
    assert [prompt.kind for prompt in search.harmless] == ["harmless", "borderline"] * 2 + ["harmless"]
    assert of_testbed("search", 3, 0, WorldConfig()).harmless == ()


def test_harmless_prompts_alone_are_refused_by_what_is_missing():
    harmless = [Prompt(id=str(n), messages=ATTACKS[0].messages, kind="harmless") for n in range(4)]
    with pytest.raises(ConfigError, match="all 4 prompts are harmless or borderline; learning needs attacks"):
        of_prompts(harmless)
