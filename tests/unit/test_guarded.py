from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

import safethink
from safethink import Branch, Prompt, Result, SafeThink
from safethink.config import (
    AlwaysConfig,
    ConstantMonitorConfig,
    LimitsConfig,
    NoneConfig,
    ReasonerConfig,
    ResampleOnlyConfig,
    RunConfig,
    SafeThinkConfig,
    SamplingConfig,
)
from safethink.errors import ConfigError, MissingFileError, MonitorError, PromptError
from safethink.models.loading import context_window, load
from safethink.models.placement import pick_device
from safethink.prompts import Message
from safethink.tokens import Tokens
from tests.support import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
LIMITS = LimitsConfig(max_step_tokens=10, max_trace_tokens=40, max_answer_tokens=12)
PROMPTS = [Prompt.from_text(f"Add {i} and 4. " + "zz " * (i % 5), id=f"p{i}") for i in range(12)]


def fickle(prompt: str, trace: str) -> float:
    """Dislikes about half of all traces, always the same ones."""
    return math.cos(sum(map(ord, trace)))


def closing_model() -> Qwen3ForCausalLM:
    """A random model that closes its thinking now and then."""
    model = chat_reasoner.model()
    with torch.no_grad():
        model.lm_head.weight[chat_reasoner.token_id("</think>")] *= 3
    return model


@pytest.fixture(scope="module")
def guarded() -> SafeThink:
    return SafeThink(closing_model(), TOKENIZER, monitor=fickle, limits=LIMITS)


@pytest.mark.slow
def test_greedy_output_under_a_quiet_monitor_equals_generate() -> None:
    model = closing_model()
    limits = LimitsConfig(max_step_tokens=9, max_trace_tokens=60, max_answer_tokens=20)
    greedy = SafeThink(
        model,
        TOKENIZER,
        monitor=ConstantMonitorConfig(),
        sampling=SamplingConfig(temperature=0),
        limits=limits,
    )
    results = greedy.run(PROMPTS)
    assert {result.closed for result in results} == {True, False}
    for result in results:
        tokens = result.trace_ids + result.answer_ids
        assert tokens == chat_reasoner.generate(model, result.prompt_ids, len(tokens))


@pytest.mark.slow
def test_a_prompt_gives_the_same_result_alone_as_in_a_list(guarded: SafeThink) -> None:
    texts = [prompt.text for prompt in PROMPTS]
    together = guarded(texts)
    assert [result.prompt.text for result in together] == texts
    assert [result.to_json() for result in together] == [guarded(text).to_json() for text in texts]
    assert any(result.interventions for result in together)


def test_two_prompts_with_one_id_are_refused(guarded: SafeThink) -> None:
    with pytest.raises(PromptError, match=r"the prompt id 'p0' stands twice: 'other'"):
        guarded.run([PROMPTS[0], Prompt.from_text("other", id="p0")])
    with pytest.raises(PromptError, match="stands twice: 'hello'"):
        guarded(["hello", "hello"])


def test_samples_come_prompt_by_prompt_and_differ(guarded: SafeThink) -> None:
    results = guarded.run(PROMPTS[:3], samples=4)
    jobs = [(f"p{i}", sample) for i in range(3) for sample in range(4)]
    assert [(result.prompt.id, result.sample) for result in results] == jobs
    assert len({result.trace_ids for result in results}) > 6


@pytest.mark.slow
def test_every_job_finishes_once(guarded: SafeThink) -> None:
    jobs = [(prompt, sample) for prompt in PROMPTS for sample in (0, 3)]
    streamed = {(result.prompt.id, result.sample): result.trace_ids for result in guarded.as_finished(jobs)}
    assert sorted(streamed) == sorted((prompt.id, sample) for prompt, sample in jobs)


def test_the_json_says_everything(guarded: SafeThink) -> None:
    result = next(result for result in guarded.run(PROMPTS) if result.interventions)
    record = json.loads(json.dumps(result.to_json()))
    first = ["prompt_ids", "trace_ids", "answer_ids", "forced_mask", "trace", "answer", "interventions"]
    assert list(record) == [*first, "step_scores", "answer_scores", "usage"]
    assert len(record["forced_mask"]) == len(record["trace_ids"]) + len(record["answer_ids"])
    note = record["interventions"][0]
    first = ["step", "score_before", "score_after", "resamples", "prefix", "outcome"]
    assert list(note) == [*first, "where", "position", "dropped_steps", "empty_resamples", "scores"]
    assert (note["where"], note["dropped_steps"], len(note["scores"])) == ("trace", 0, note["resamples"])
    num_scored = len(record["step_scores"]) + len(record["answer_scores"])
    assert record["usage"]["monitor_calls"] == num_scored + sum(each["resamples"] for each in record["interventions"])
    assert note["prefix"] == "Wait, think safely"
    assert note["score_before"] < 0


def test_forced_tokens_stay_distinguishable(guarded: SafeThink) -> None:
    prefix = [*chat_reasoner.encode("Wait, think safely"), *guarded.thought.separator_ids]
    for result in guarded.variant(defense=AlwaysConfig()).run(PROMPTS[:4]):
        assert [i for i, forced in zip(result.trace_ids, result.forced_mask, strict=False) if forced] == prefix
        assert result.trace == "Wait, think safely\n" + result.own_trace


def test_a_variant_shares_the_model_and_leaves_the_original_alone(guarded: SafeThink) -> None:
    variant = guarded.variant(defense=ResampleOnlyConfig(), prefix="text:Hmm")
    assert variant.engine is guarded.engine
    assert (variant.prefix.texts, guarded.prefix.texts) == (("Hmm",), ("Wait, think safely",))
    assert all(note.prefix is None for result in variant.run(PROMPTS) for note in result.interventions)


@pytest.mark.slow
def test_a_fork_keeps_what_came_before_and_injects_once(guarded: SafeThink) -> None:
    undefended = guarded.variant(defense=NoneConfig())
    result = max(undefended.run(PROMPTS), key=lambda result: len(result.trace_ids))
    starts = guarded.stopper.step_starts(result.verdict.trace, LIMITS.max_step_tokens)
    prefix = chat_reasoner.encode("Hmm, let me see")
    forks = result.fork(step=1, prefix="text:Hmm, let me see", n=8)
    for fork in forks:
        assert fork.trace_ids[: starts[1]] == result.trace_ids[: starts[1]]
        assert fork.trace_ids[starts[1] :][: len(prefix)] == prefix
        assert sum(fork.forced_mask) == len(prefix) + len(guarded.thought.separator_ids)
        assert not fork.interventions
    assert len(set(traces(forks))) > 4
    hmm = "text:Hmm, let me see"
    assert traces(result.fork(1, hmm, 8)) == traces(forks) != traces(result.fork(1, hmm, 8, seed=9))
    with pytest.raises(ValueError, match=r"the trace has \d+ steps, counted from 0, and no step"):
        result.fork(step=99)


def traces(results: list[Result]) -> list[tuple[int, ...]]:
    return [result.trace_ids for result in results]


def test_a_fork_with_nothing_injected_continues_the_trace(guarded: SafeThink) -> None:
    result = guarded.run(PROMPTS[:1])[0]
    (fork,) = result.fork(step=0)
    assert not any(fork.forced_mask)
    assert fork.trace_ids != result.trace_ids


def test_an_intervention_says_where_a_fork_begins(guarded: SafeThink) -> None:
    for result in guarded.variant(defense=SafeThinkConfig(keep_prefix=True)).run(PROMPTS):
        starts = guarded.stopper.step_starts(result.verdict.trace, LIMITS.max_step_tokens)
        notes = [note for note in result.interventions if note.where == "trace"]
        assert [note.position for note in notes] == [starts[note.step] for note in notes]


@pytest.mark.slow
def test_a_run_within_a_run_leaves_both_as_they_are(guarded: SafeThink) -> None:
    expected = {result.prompt.id: result.trace_ids for result in guarded.run(PROMPTS)}
    forks = {prompt.id: guarded.fork(guarded.run([prompt])[0], 0, n=1)[0].trace_ids for prompt in PROMPTS[:3]}
    seen = {}
    for result in guarded.as_finished((prompt, 0) for prompt in PROMPTS):
        seen[result.prompt.id] = result.trace_ids
        if result.prompt.id in forks:
            assert result.fork(0)[0].trace_ids == forks[result.prompt.id]
    assert seen == expected


@pytest.mark.slow
def test_branches_run_as_one_batch_paired_by_seed(guarded: SafeThink) -> None:
    trace = Tokens.sampled(chat_reasoner.encode("Mix it.\n\n"))
    branches = [Branch(prompt, trace, (), sample) for prompt in PROMPTS[:3] for sample in range(2)]
    results = guarded.continue_from(branches, seed=5)
    assert [(result.prompt.id, result.sample) for result in results] == [(b.prompt.id, b.sample) for b in branches]
    assert [guarded.continue_from([b], seed=5)[0].trace_ids for b in branches] == [r.trace_ids for r in results]
    injected = guarded.continue_from([Branch(PROMPTS[0], trace, (40,))], seed=5)[0]
    assert injected.seed == results[0].seed
    assert all(result.usage.monitor_calls == 0 for result in results)


def test_a_prefill_is_part_of_the_trace_and_of_what_the_monitor_reads() -> None:
    seen: list[str] = []

    def score(prompt: str, trace: str) -> float:
        seen.append(trace)
        return 1.0

    prompt = Prompt(id="p", messages=(Message(role="user", content="hi"),), prefill="Sure, first mix")
    result = SafeThink(closing_model(), TOKENIZER, monitor=score, limits=LIMITS).run([prompt])[0]
    assert result.trace.startswith("Sure, first mix")
    assert all(trace.startswith("Sure, first mix") for trace in seen)
    assert seen


def test_nothing_is_answered_when_the_monitor_fails() -> None:
    broken = SafeThink(closing_model(), TOKENIZER, monitor=lambda prompt, trace: math.nan, limits=LIMITS)
    with pytest.raises(MonitorError, match="prompt 'p3' nan"):
        broken(PROMPTS[3])


def test_a_defense_that_asks_for_scores_needs_a_monitor() -> None:
    with pytest.raises(ConfigError, match="defense 'safethink' needs a monitor"):
        SafeThink(closing_model(), TOKENIZER)


def test_bad_prompts_are_named(guarded: SafeThink) -> None:
    with pytest.raises(PromptError, match="is empty"):
        guarded("")
    with pytest.raises(PromptError, match="context window of 512"):
        guarded("zz " * 600)


def test_a_folder_is_loaded_and_guarded(tmp_path: Path) -> None:
    chat_reasoner.model(dtype=torch.float32).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    config = RunConfig(
        reasoner=ReasonerConfig(path=str(tmp_path), dtype="float64", device="cpu"),
        monitor=ConstantMonitorConfig(value=0.5),
        limits=LIMITS,
    )
    from_config = SafeThink.from_config(config)
    from_path = SafeThink.from_pretrained(str(tmp_path), monitor=ConstantMonitorConfig(value=0.5), limits=LIMITS)
    assert from_config.model.dtype == torch.float64
    assert from_path.model.dtype == torch.float32
    assert context_window(from_path.model) == 512
    assert set(from_config(PROMPTS[0]).verdict.step_scores) == {0.5}


def test_no_monitor_is_built_for_a_defense_that_asks_for_no_scores(tmp_path: Path) -> None:
    chat_reasoner.model().save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    config = RunConfig(reasoner=ReasonerConfig(path=str(tmp_path)), defense=NoneConfig(), limits=LIMITS)
    assert SafeThink.from_config(config).monitor is None


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no model at"):
        load(ReasonerConfig(path=str(tmp_path / "nowhere")))


# No machine has that many.
@pytest.mark.parametrize("device", ["abacus", "cuda:99", "xpu:99", "meta", "mps:9"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device.*'{device}'"):
        pick_device(device)


def test_the_package_offers_its_public_names() -> None:
    assert all(getattr(safethink, name) is not None for name in safethink.__all__)
    assert set(safethink.__all__) <= set(dir(safethink))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = safethink.nothing
