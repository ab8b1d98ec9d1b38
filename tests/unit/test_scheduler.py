from __future__ import annotations

import math
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
from safethink.scheduler import Finished, Row, run
from safethink.seeds import stable_seed
from safethink.thought import Thought
from safethink.tokens import Tokens
from tests.unit import chat_reasoner

TOKENIZER = chat_reasoner.tokenizer()
THOUGHT = Thought(ThoughtConfig(), TOKENIZER)
CLOSE, END = THOUGHT.close_ids[0], TOKENIZER.eos_token_id
PREFIX = THOUGHT.encoder.text("Wait")


class ScriptedEngine:
    """Tokens are a function of ids and seed; the thinking closes after `num_steps` delimiters."""

    def __init__(self, num_steps: int = 3) -> None:
        self.num_steps = num_steps
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
        ids, stop = {
            Until.STEP: ((*word, CLOSE), "thought") if last else (step, "step"),
            Until.THOUGHT: ((*step, CLOSE), "thought"),
            Until.ANSWER: ((*word, END), "end"),
        }[request.until]
        cut: StopReason = stop if len(ids) <= request.max_new_tokens else "length"
        return Extension(Tokens.sampled(ids[: request.max_new_tokens]), cut)


def rows(n: int, config: DefenseConfig = SafeThinkConfig(), start: Tokens = Tokens()) -> Iterator[Row]:  # noqa: B008
    for index in range(n):
        prompt = Prompt.from_text(f"prompt {index}", id=f"p{index}")
        task = Task(start, prefixes=(PREFIX,), close=(CLOSE,), refusal=THOUGHT.refusal_ids)
        yield Row(prompt, THOUGHT.open_prompt(prompt), defenses.start(config, task))


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
        assert usage.sampled - usage.dropped == len(verdict.trace) + len(verdict.answer)
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
