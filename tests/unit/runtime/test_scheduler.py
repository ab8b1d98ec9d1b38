from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from safethink import defenses
from safethink.config import DefenseConfig, GuardRefuseConfig, LimitsConfig, NoneConfig, SafeThinkConfig, ThoughtConfig
from safethink.defenses.effects import Extension, StopReason, Task, Until
from safethink.engines import ExtendRequest
from safethink.errors import MonitorError
from safethink.monitors import Monitor, ScoreRequest
from safethink.monitors.function import FunctionMonitor
from safethink.prompts import Message, Prompt, Role
from safethink.runtime.row import Accepted, Finished, Row
from safethink.runtime.scheduler import follow, run
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import answer_text, trace_text
from safethink.tokens import Tokens
from tests.support import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER)
CLOSE, END = THOUGHT.close_ids[0], TOKENIZER.eos_token_id
PREFIX = THOUGHT.encoder.text("Wait")


class ScriptedEngine:
    """Tokens are a function of ids and seed; the thinking closes after `num_steps` delimiters.

    An answer that is asked for step by step has two of them. `says` gives other tokens for some kinds of extension.
    """

    def __init__(self, num_steps: int = 3, says: dict[Until, tuple[tuple[int, ...], StopReason]] | None = None) -> None:
        self.num_steps = num_steps
        self.says = says or {}
        self.batches: list[int] = []
        self.requests: list[ExtendRequest] = []
        self.held: set[int] = set()

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        self.batches.append(len(requests))
        self.requests += requests
        self.held |= {request.row for request in requests}
        return [self._one(request) for request in requests]

    def release(self, row: int) -> None:
        self.held.discard(row)

    def _one(self, request: ExtendRequest) -> Extension:
        word = THOUGHT.encoder.text("xyz"[stable_seed(request.seed, *request.ids) % 3])
        step = word + THOUGHT.encoder.text(".\n\n")
        last = TOKENIZER.decode(list(request.ids)).count("\n\n") >= self.num_steps - 1
        num_answered = chat_reasoner.decode(request.ids).rpartition("</think>")[2].count("\n\n")
        ids, stop = {
            Until.ANSWER_STEP: ((*word, END), "end") if num_answered else (step, "step"),
            Until.STEP: ((*word, CLOSE), "thought") if last else (step, "step"),
            Until.THOUGHT: ((*step, CLOSE), "thought"),
            Until.ANSWER: ((*word, END), "end"),
            **self.says,
        }[request.until]
        cut: StopReason = stop if len(ids) <= request.max_new_tokens else "length"
        return Extension(Tokens.sampled(ids[: request.max_new_tokens]), cut)


def rows(n: int, config: DefenseConfig = SafeThinkConfig(), start: Tokens = Tokens()) -> Iterator[Row]:  # noqa: B008
    for index in range(n):
        prompt = Prompt.from_text(f"prompt {index}", id=f"p{index}")
        task = Task(start, prefixes=(PREFIX,), close=(CLOSE,), refusal=THOUGHT.refusal_ids)
        yield Row(prompt, open_prompt(THOUGHT, prompt), defenses.start(config, task))


def drive(
    todo: Iterator[Row],
    score: Callable[[str, str], float] = lambda prompt, trace: 1.0,
    engine: ScriptedEngine | None = None,
    batch_size: int = 64,
    limits: LimitsConfig = LimitsConfig(),  # noqa: B008
) -> dict[str, Finished]:
    done = run(todo, engine or ScriptedEngine(), FunctionMonitor(score), THOUGHT, limits, batch_size)
    return {finished.row.prompt.id: finished for finished in done}


def dislikes_x(prompt: str, trace: str) -> float:
    return -1.0 if trace.rstrip().endswith("x.") else 1.0


@pytest.mark.slow
def test_a_row_depends_neither_on_its_neighbours_nor_on_the_batch_size() -> None:
    together = drive(rows(32), dislikes_x)
    for batch_size in (1, 5, 64):
        assert {k: v.verdict for k, v in drive(rows(32), dislikes_x, batch_size=batch_size).items()} == {
            k: v.verdict for k, v in together.items()
        }
    assert any(finished.verdict.interventions for finished in together.values())


def test_rows_are_admitted_as_others_finish_and_released_when_done() -> None:
    engine, taken = ScriptedEngine(), []

    def lazily() -> Iterator[Row]:
        for row in rows(10):
            taken.append(row)
            yield row

    stream = run(lazily(), engine, FunctionMonitor(lambda prompt, trace: 1.0), THOUGHT, LimitsConfig(), 4)
    next(stream)
    assert len(taken) == 4
    assert len(list(stream)) == 9
    assert max(engine.batches) == 4
    assert not engine.held


def test_an_abandoned_run_releases_its_rows() -> None:
    engine = ScriptedEngine()
    stream = run(rows(10), engine, FunctionMonitor(lambda prompt, trace: 1.0), THOUGHT, LimitsConfig(), 4)
    next(stream)
    stream.close()
    assert not engine.held


def test_the_monitor_never_sees_injected_tokens_or_the_closing_tag() -> None:
    seen: list[str] = []

    def score(prompt: str, trace: str) -> float:
        seen.append(trace)
        return dislikes_x(prompt, trace)

    done = drive(rows(8, SafeThinkConfig(keep_prefix=True)), score)
    assert any(any(finished.verdict.trace.forced) for finished in done.values())
    assert not any("Wait" in trace or "think>" in trace for trace in seen)


def test_usage_counts_what_was_sampled_dropped_and_injected() -> None:
    done = drive(rows(8), dislikes_x)
    for finished in done.values():
        verdict, usage = finished.verdict, finished.usage
        tries = sum(note.resamples for note in verdict.interventions)
        assert usage.sampled - usage.dropped == len(verdict.trace.own()) + len(verdict.answer.own())
        assert usage.forced == tries * len(PREFIX)
        assert usage.monitor_calls == tries + len(verdict.step_scores)
        assert (usage.dropped > 0) == (tries > 0)


def test_a_refusal_counts_as_forced() -> None:
    finished = drive(rows(1, GuardRefuseConfig()), lambda prompt, trace: -1.0)["p0"]
    assert finished.usage.forced == 1 + len(THOUGHT.refusal_ids)
    assert finished.usage.dropped == finished.usage.sampled > 0


def test_tokens_that_stood_there_before_are_not_counted_as_sampled() -> None:
    finished = drive(rows(1, NoneConfig(), start=Tokens.sampled((40, 41))))["p0"]
    assert finished.usage.dropped == 0


def test_seeds_differ_by_prompt_only_while_nothing_is_dropped() -> None:
    first, second = ScriptedEngine(), ScriptedEngine()
    drive(rows(3), engine=first)
    drive(rows(3), engine=second, batch_size=1)
    assert {request.seed for request in first.requests} == {request.seed for request in second.requests}
    assert {request.seed for request in first.requests} == {stable_seed(0, f"p{i}", 0, 0) for i in range(3)}
    assert stable_seed(0, "p0", 0, 0) == 5624145554423210479


def test_a_long_step_is_cut_and_the_thinking_goes_on() -> None:
    done = drive(rows(1), limits=LimitsConfig(max_step_tokens=1, max_trace_tokens=6))
    verdict = done["p0"].verdict
    assert len(verdict.step_scores) == len(verdict.trace) == 6
    assert (verdict.closed, len(verdict.answer)) == (False, 0)


def test_an_answer_ends_at_its_limit_or_with_the_context_window() -> None:
    assert len(drive(rows(1), limits=LimitsConfig(max_answer_tokens=1))["p0"].verdict.answer) == 1
    prompt_ids = next(rows(1)).prompt_ids
    tight = Thought(ThoughtConfig(), TOKENIZER, context_tokens=len(prompt_ids) + 1)
    stream = run(rows(1, NoneConfig()), ScriptedEngine(), None, tight, LimitsConfig())
    verdict = next(stream).verdict
    assert (len(verdict.trace), verdict.closed) == (1, False)


class ListMonitor:
    """Returns the same list whatever is asked."""

    def __init__(self, scores: Any, culprit: str = "") -> None:
        self.scores = scores
        self.culprit = culprit

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        return self.scores

    def release(self, row: int) -> None: ...


class BrokenMonitor(ListMonitor):
    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        if any(self.culprit in request.prompt.id for request in requests):
            raise RuntimeError("out of memory")
        return [1.0] * len(requests)


class CrowdedMonitor(ListMonitor):
    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        if len(requests) > 1:
            raise RuntimeError("too many")
        return [1.0]


@pytest.mark.parametrize(
    ("monitor", "message"),
    [
        (FunctionMonitor(lambda prompt, trace: math.nan if prompt == "prompt 1" else 1.0), "'p1' nan, .* not in"),
        (FunctionMonitor(lambda prompt, trace: 1.5 if prompt == "prompt 1" else 1.0), r"'p1' 1\.5"),
        (FunctionMonitor(lambda prompt, trace: 1 / len(prompt.removeprefix("prompt 1"))), "'p1': ZeroDivisionError"),
        (ListMonitor([1.0]), "1 scores for 3 prompts"),
        (BrokenMonitor([]), "'p0': RuntimeError: out of memory"),
        (BrokenMonitor([], "p1"), "prompt 'p1': RuntimeError: out of memory"),
        (CrowdedMonitor([]), "'p0', 'p1', 'p2': RuntimeError: too many"),
        (ListMonitor(None), "'p0': TypeError: 'NoneType'"),
        (ListMonitor(iter([1.0, "safe", 1.0])), "'p1' 'safe', .* not in"),
        (ListMonitor(np.ones((3, 2))), r"'p0' array\(\[1., 1.\]\), .* not in"),
        (ListMonitor([1.0, 10**400, 1.0]), "'p1' 10+, .* not in"),
    ],
)
def test_a_failing_monitor_stops_the_run_with_the_row_named(monitor: Monitor, message: str) -> None:
    engine, answered = ScriptedEngine(), []
    with pytest.raises(MonitorError, match=message):
        answered.extend(run(rows(3), engine, monitor, THOUGHT, LimitsConfig()))
    assert not answered
    assert not engine.held


def test_a_function_monitor_reads_all_turns() -> None:
    turns: tuple[tuple[Role, str], ...] = (("user", "hi"), ("assistant", "yes?"), ("user", "now"))
    prompt = Prompt(id="p", messages=tuple(Message(role=role, content=content) for role, content in turns))
    seen: list[str] = []

    def score(text: str, trace: str) -> float:
        seen.append(text)
        return 1.0

    FunctionMonitor(score).score([ScoreRequest(0, prompt, "")])
    assert seen == ["user: hi\n\nassistant: yes?\n\nuser: now"]


def test_every_resample_has_a_seed_of_its_own() -> None:
    engine = ScriptedEngine()
    drive(rows(1), score=lambda prompt, trace: -1.0, engine=engine)
    resampled = [request for request in engine.requests if request.ids[-len(PREFIX) :] == PREFIX]
    assert len(resampled) > 1
    assert len({request.seed for request in resampled}) == len(resampled)


def readings(
    config: DefenseConfig, engine: ScriptedEngine | None = None, n: int = 8
) -> tuple[list[str], dict[str, Finished]]:
    seen: list[str] = []

    def score(prompt: str, trace: str) -> float:
        seen.append(trace)
        return dislikes_x(prompt, trace)

    return seen, drive(rows(n, config), score, engine, limits=LimitsConfig(max_trace_tokens=400))


def test_a_monitor_may_read_injected_tokens_as_an_ablation() -> None:
    masked, _ = readings(SafeThinkConfig(keep_prefix=True))
    shown, _ = readings(SafeThinkConfig(keep_prefix=True, monitor_sees_prefix=True))
    assert not any("Wait" in trace for trace in masked)
    assert any("Wait" in trace for trace in shown)
    assert not any("think>" in trace for trace in shown)


def test_a_watched_answer_is_read_behind_its_trace_without_tags_or_injected_tokens() -> None:
    seen, done = readings(SafeThinkConfig(monitor_answer=True, max_resamples=2))
    assert not any("Wait" in trace or "think>" in trace or "im_end" in trace for trace in seen)
    for finished in done.values():
        verdict = finished.verdict
        trace, answer = trace_text(THOUGHT, verdict.trace), answer_text(THOUGHT, verdict.answer)
        assert f"{trace.rstrip()}\n\n{answer}" in [each.rstrip() for each in seen]
        assert len(verdict.answer_scores) == 2
    assert any(note.where == "answer" for finished in done.values() for note in finished.verdict.interventions)


@pytest.mark.slow
def test_usage_adds_up_in_a_watched_answer_too() -> None:
    for config in (
        SafeThinkConfig(monitor_answer=True, max_resamples=2),
        SafeThinkConfig(monitor_answer=True, max_resamples=1, fallback="rollback", max_steered_steps=9),
        SafeThinkConfig(monitor_answer=True, max_resamples=1, fallback="rollback", keep_prefix=True),
    ):
        _, done = readings(config, ScriptedEngine(5), n=24)
        for finished in done.values():
            verdict, usage = finished.verdict, finished.usage
            tries = sum(note.resamples for note in verdict.interventions)
            kept = verdict.trace.own() + verdict.answer.own()
            assert usage.sampled - usage.dropped == len(kept)
            assert usage.forced == tries * len(PREFIX)
            assert usage.monitor_calls == tries + len(verdict.step_scores) + len(verdict.answer_scores)
        assert config.fallback == "keep_last" or any(
            note.dropped_steps for finished in done.values() for note in finished.verdict.interventions
        )


def test_the_limit_of_an_answer_holds_for_all_its_steps() -> None:
    long: dict[Until, tuple[tuple[int, ...], StopReason]] = {
        Until.ANSWER_STEP: (THOUGHT.encoder.text("zz yy xx "), "step")
    }
    limits = LimitsConfig(max_answer_tokens=len(long[Until.ANSWER_STEP][0]) + 1, max_step_tokens=99)
    done = drive(rows(1, SafeThinkConfig(monitor_answer=True)), engine=ScriptedEngine(says=long), limits=limits)
    assert len(done["p0"].verdict.answer) == limits.max_answer_tokens
    prompt_ids = next(rows(1)).prompt_ids
    tight = Thought(ThoughtConfig(), TOKENIZER, context_tokens=len(prompt_ids) + 9)
    stream = run(
        rows(1, GuardRefuseConfig(monitor_answer=True)),
        ScriptedEngine(),
        FunctionMonitor(lambda *_: 1.0),
        tight,
        LimitsConfig(),
    )
    verdict = next(stream).verdict
    assert len(verdict.trace) + len(verdict.answer) == 9


BLANK = THOUGHT.encoder.text("\n\n")


@pytest.mark.parametrize(("thought_ids", "is_watched"), [((*BLANK, CLOSE), True), ((*PREFIX, CLOSE), False)])
def test_an_answer_is_watched_where_the_thinking_was_closed_empty(thought_ids, is_watched: bool) -> None:
    says: dict[Until, tuple[tuple[int, ...], StopReason]] = {Until.STEP: (thought_ids, "thought")}
    done = drive(rows(1), engine=ScriptedEngine(says=says))
    assert (len(done["p0"].verdict.answer_scores) > 0) == is_watched


def test_thinking_that_holds_only_what_was_injected_is_empty() -> None:
    says: dict[Until, tuple[tuple[int, ...], StopReason]] = {Until.STEP: ((CLOSE,), "thought")}
    verdict = drive(rows(1, start=Tokens.injected(PREFIX)), engine=ScriptedEngine(says=says))["p0"].verdict
    assert len(verdict.answer_scores) > 0


@pytest.mark.parametrize("step_tokens", [1, 3])
def test_steps_may_be_counted_in_tokens(step_tokens: int) -> None:
    thought = Thought(ThoughtConfig(step_tokens=step_tokens), TOKENIZER)
    engine = ScriptedEngine()
    limits = LimitsConfig(max_trace_tokens=3 * step_tokens)
    list(run(rows(1), engine, FunctionMonitor(lambda prompt, trace: 1.0), thought, limits))
    assert {request.max_new_tokens for request in engine.requests if request.until is Until.STEP} <= {step_tokens, 0}


class CountingMonitor:
    """Passes everything, slowly, and says that it read seven tokens."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        time.sleep(0.01)
        return [1.0] * len(requests)

    def tokens_read(self, row: int) -> int:
        return 7

    def release(self, row: int) -> None: ...


def test_what_a_monitor_read_is_counted_where_it_says_so() -> None:
    done = [*run(rows(3), ScriptedEngine(), CountingMonitor(), THOUGHT, LimitsConfig())]
    assert [each.usage.monitor_tokens for each in done] == [7 * each.usage.monitor_calls for each in done]
    assert {each.usage.monitor_tokens for each in drive(rows(3)).values()} == {None}


def test_the_time_of_batches_is_shared_so_that_it_adds_up() -> None:
    started = time.perf_counter()
    done = [*run(rows(4), ScriptedEngine(), CountingMonitor(), THOUGHT, LimitsConfig())]
    took = time.perf_counter() - started
    usages = [each.usage for each in done]
    num_batches = max(usage.monitor_calls for usage in usages)
    assert 0.01 * num_batches <= sum(usage.monitor_seconds for usage in usages) < took
    assert 0 < sum(usage.engine_seconds for usage in usages) < took
    assert sum(usage.engine_seconds + usage.monitor_seconds for usage in usages) < took


def test_who_follows_sees_what_stands_before_it_is_finished() -> None:
    monitor = FunctionMonitor(dislikes_x)
    config = SafeThinkConfig(fallback="rollback", max_resamples=1, monitor_answer=True)
    news = [*follow(rows(8, config), ScriptedEngine(), monitor, THOUGHT, LimitsConfig(), 3)]
    plain = {
        each.row.prompt.id: each.verdict
        for each in run(rows(8, config), ScriptedEngine(), monitor, THOUGHT, LimitsConfig())
    }
    ended: set[str] = set()
    stands: dict[str, Accepted] = {}
    for each in news:
        name = each.row.prompt.id
        assert name not in ended
        before = stands.get(name)
        if isinstance(each, Finished):
            ended.add(name)
            assert each.verdict == plain[name]
            assert before is not None
            assert each.verdict.trace[: len(before.standing.trace)] == before.standing.trace
            assert each.verdict.answer[: len(before.standing.answer)] == before.standing.answer
            continue
        if before is not None:
            assert before.sampled <= each.sampled
            assert each.standing.trace[: len(before.standing.trace)] == before.standing.trace
        stands[name] = each
    assert len(ended) == 8


class ClosesAtOnce(ScriptedEngine):
    """Closes the thinking at once behind the prefix, or writes nothing at all, so many times; then it thinks."""

    def __init__(self, times: int, empty: tuple[int, ...] = (CLOSE,), stop: StopReason = "thought") -> None:
        super().__init__()
        self.times, self.empty, self.stop = times, empty, stop

    def _one(self, request: ExtendRequest) -> Extension:
        if request.ids[-len(PREFIX) :] != PREFIX or not self.times:
            return super()._one(request)
        self.times -= 1
        return Extension(Tokens.sampled(self.empty), self.stop)


@pytest.mark.parametrize(
    ("empty", "stop"), [((CLOSE,), "thought"), ((END,), "end"), ((), "end"), (THOUGHT.encoder.text(" \n\n"), "step")]
)
def test_a_resample_that_says_nothing_is_tried_again_with_another_seed(
    empty: tuple[int, ...], stop: StopReason
) -> None:
    engine = ClosesAtOnce(2, empty, stop)
    (done,) = run(rows(1), engine, FiresOnce(), THOUGHT, LimitsConfig())
    (note,) = done.verdict.interventions
    assert (note.outcome, note.resamples, note.empty_resamples) == ("recovered", 3, 2)
    behind = [request.seed for request in engine.requests if request.ids[-len(PREFIX) :] == PREFIX]
    assert len(behind) == len(set(behind)) == 3


def test_a_stream_shows_no_resample_that_says_nothing() -> None:
    engine = ClosesAtOnce(1)
    news = list(follow(rows(1), engine, FiresOnce(), THOUGHT, LimitsConfig(), 1))
    for accepted in news:
        if isinstance(accepted, Accepted):
            assert all(note.outcome == "recovered" for note in accepted.standing.interventions)
    assert isinstance(news[-1], Finished)
    assert news[-1].verdict.closed


class FiresOnce:
    """Fires on the second step as it was first proposed, and never again."""

    def __init__(self) -> None:
        self.asked = 0

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        self.asked += len(requests)
        return [-0.5 if self.asked == 2 else 0.5 for _ in requests]

    def release(self, row: int) -> None: ...
