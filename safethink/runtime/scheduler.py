"""Runs many defenses at once: gathers what they ask for and hands engine and monitor full batches."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice

from safethink.config import LimitsConfig
from safethink.defenses import Rule
from safethink.defenses.effects import Effect, Extend, Extension, Look, Score, Until, Weigh
from safethink.engines import (
    ContinuousEngine,
    Engine,
    ExtendRequest,
    HiddenState,
    LocalEngine,
    LookRequest,
    StateEngine,
    StateRequest,
    TokenLevelEngine,
    WeighRequest,
)
from safethink.errors import ConfigError
from safethink.monitors import (
    CountingMonitor,
    FittedMonitor,
    Monitor,
    ScoreRequest,
    fail_closed,
    layer_read_by,
    reads_text,
)
from safethink.runtime.row import Accepted, Finished, Row, RunningRow, Usage
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.reading import monitored_text, trace_text


class Waves:
    """Continues all rows that were submitted together, and hands them back when the last one has stopped."""

    def __init__(self, engine: Engine) -> None:
        """Continue with `engine`."""
        self._engine = engine
        self._submitted: list[ExtendRequest] = []

    def submit(self, requests: Sequence[ExtendRequest]) -> None:
        """Put rows into the next wave."""
        self._submitted += requests

    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        """Continue the rows of this wave to the last one, whatever `share`; return what was produced, by row."""
        wave, self._submitted = self._submitted, []
        return {request.row: extension for request, extension in zip(wave, self._engine.extend(wave), strict=True)}


def continuous(engine: Engine) -> ContinuousEngine:
    """The engine itself where rows may enter it at any time, else in waves."""
    return engine if isinstance(engine, ContinuousEngine) else Waves(engine)


BATCH_SHARE = 0.5
"""Steps are scored together as soon as this share of the rows under way has one."""

__all__ = ["Accepted", "Finished", "Row", "Usage", "follow", "run"]


def run(
    rows: Iterable[Row],
    engine: Engine,
    monitor: Monitor | None,
    thought: Thought,
    limits: LimitsConfig,
    batch_size: int = 64,
) -> Generator[Finished, None, None]:
    """Run every row's defense to its end: `follow`, for who reads nothing before it is finished."""
    with closing(follow(rows, engine, monitor, thought, limits, batch_size)) as news:
        for event in news:
            if isinstance(event, Finished):
                yield event


def follow(
    rows: Iterable[Row],
    engine: Engine,
    monitor: Monitor | None,
    thought: Thought,
    limits: LimitsConfig,
    batch_size: int = 64,
) -> Generator[Accepted | Finished, None, None]:
    """Run every row's defense to its end; rows are admitted as others finish.

    Args:
        rows: may be lazy; a row is taken when there is room for it.
        engine: produces the reasoner's tokens.
        monitor: scores partial traces; None where no defense asks for a score.
        thought: reads traces as text for the monitor.
        limits: how long steps, traces and answers may get.
        batch_size: the most rows at once.

    Yields:
        What each row accepts, in its order, and rows as they finish, in no particular one.

    Raises:
        MonitorError: if the monitor fails on a row; no row is ever answered without its guard.
    """
    waiting = iter(rows)
    under_way: dict[int, RunningRow] = {}
    # A monitor that reads text is fast in batches; others have nothing to wait for.
    share = BATCH_SHARE if monitor is not None and reads_text(monitor) else 0.0
    extending = _Extending(continuous(engine), share, thought, limits)
    try:
        while True:
            under_way |= {
                running.key: running for running in map(RunningRow, islice(waiting, batch_size - len(under_way)))
            }
            if not under_way:
                return
            extending.advance(list(under_way.values()))
            _look_all(under_way.values(), engine, thought, limits)
            _weigh_all(under_way.values(), engine)
            _score_all(under_way.values(), engine, monitor, thought)
            finished = [running for running in under_way.values() if running.verdict is not None]
            news = [accepted for running in under_way.values() for accepted in running.take_accepted()]
            for running in finished:
                _release(under_way.pop(running.key), engine, monitor)
            yield from news
            yield from [running.finish() for running in finished]
    finally:
        for running in under_way.values():
            _release(running, engine, monitor)


class _Extending:
    """The rows that the engine continues; some stop while others go on."""

    def __init__(self, engine: ContinuousEngine, share: float, thought: Thought, limits: LimitsConfig) -> None:
        self._engine = engine
        self._share = share
        self._thought = thought
        self._limits = limits
        self._under_way: dict[int, tuple[RunningRow, ExtendRequest, int]] = {}

    def advance(self, rows: Sequence[RunningRow]) -> None:
        """Begin what is asked for, and answer those that the engine has done."""
        new = [running for running in rows if isinstance(running.effect, Extend) and running.key not in self._under_way]
        for running in new:
            room = _room(running, running.effect, self._thought, self._limits)
            self._under_way[running.key] = running, _request(running, room, self._thought, self._limits), room
        started = time.perf_counter()
        self._engine.submit([self._under_way[running.key][1] for running in new])
        if not self._under_way:
            return
        extensions = self._engine.collect(list(self._under_way), self._share)
        _count_engine_time([running for running, _, _ in self._under_way.values()], started)
        for key, extension in extensions.items():
            running, request, room = self._under_way.pop(key)
            # A step that grew too long ends there; the thinking goes on.
            cut = extension.stop == "length" and request.max_new_tokens < room
            running.extended(replace(extension, stop="step") if cut else _read(running, extension, self._thought))


def _read(running: RunningRow, extension: Extension, thought: Thought) -> Extension:
    """Say of closed thinking whether there is anything in it; a defense cannot read."""
    if extension.stop != "thought" or not isinstance(running.effect, Extend):
        return extension
    words = trace_text(thought, running.effect.trace + extension.tokens)
    return replace(extension, unthought=not words.strip())


def _count_engine_time(rows: Sequence[RunningRow], started: float) -> None:
    """Share the engine's time since `started` among the rows of a batch, in equal parts."""
    seconds = (time.perf_counter() - started) / len(rows)
    for running in rows:
        running.spent(engine_seconds=seconds)


def _count_monitor_time(rows: Sequence[RunningRow], started: float) -> None:
    """Share the monitor's time since `started` among the rows of a batch, in equal parts."""
    seconds = (time.perf_counter() - started) / len(rows)
    for running in rows:
        running.spent(monitor_seconds=seconds)


def _room(running: RunningRow, effect: Effect | None, thought: Thought, limits: LimitsConfig) -> int:
    """Tokens that fit before the trace or answer limit, or the end of the context window."""
    assert isinstance(effect, Extend | Look)
    num_trace, num_answer = len(effect.trace), len(effect.answer) if isinstance(effect, Extend) else 0
    answering = isinstance(effect, Extend) and effect.until in (Until.ANSWER, Until.ANSWER_STEP)
    room = limits.max_answer_tokens - num_answer if answering else limits.max_trace_tokens - num_trace
    if thought.context_tokens is not None:
        room = min(room, thought.context_tokens - len(running.row.prompt_ids) - num_trace - num_answer)
    return max(0, room)


def _request(running: RunningRow, room: int, thought: Thought, limits: LimitsConfig) -> ExtendRequest:
    assert isinstance(running.effect, Extend)
    ids = running.row.prompt_ids + running.effect.tokens.ids
    by_step = running.effect.until in (Until.STEP, Until.ANSWER_STEP)
    return ExtendRequest(
        row=running.key,
        ids=ids,
        step_start=len(ids),
        until=running.effect.until,
        max_new_tokens=min(room, thought.longest_step(limits.max_step_tokens)) if by_step else room,
        seed=stable_seed(running.row.seed, running.row.prompt.id, running.row.sample, running.num_dropped),
    )


def _look_all(rows: Iterable[RunningRow], engine: Engine, thought: Thought, limits: LimitsConfig) -> None:
    asked = [(running, running.effect) for running in rows if isinstance(running.effect, Look)]
    if not asked:
        return
    assert isinstance(engine, TokenLevelEngine), "a defense that looks was not refused"
    requests = [
        LookRequest(running.key, running.row.prompt_ids + look.trace.ids, look.top_k, look.layer)
        for running, look in asked
    ]
    started = time.perf_counter()
    views = engine.look(requests)
    _count_engine_time([running for running, _ in asked], started)
    for (running, look), view in zip(asked, views, strict=True):
        running.looked(replace(view, room=_room(running, look, thought, limits)))


def _weigh_all(rows: Iterable[RunningRow], engine: Engine) -> None:
    asked = [(running, running.effect) for running in rows if isinstance(running.effect, Weigh)]
    if not asked:
        return
    assert isinstance(engine, TokenLevelEngine), "a defense that weighs was not refused"
    requests = [
        WeighRequest(running.key, running.row.prompt_ids + weigh.trace.ids, weigh.continuation)
        for running, weigh in asked
    ]
    started = time.perf_counter()
    weights = engine.weigh(requests)
    _count_engine_time([running for running, _ in asked], started)
    for (running, _), log_probabilities in zip(asked, weights, strict=True):
        running.answer(log_probabilities)


def _score_all(rows: Iterable[RunningRow], engine: Engine, monitor: Monitor | None, thought: Thought) -> None:
    asked = [(running, running.effect) for running in rows if isinstance(running.effect, Score)]
    if not asked:
        return
    assert monitor is not None, "a defense asks for scores but there is no monitor"
    states = _states(asked, engine, layer_read_by(monitor))
    with_text = reads_text(monitor)
    requests = [
        ScoreRequest(running.key, running.row.prompt, _text(effect, thought) if with_text else "", state)
        for (running, effect), state in zip(asked, states, strict=True)
    ]
    started = time.perf_counter()
    scores = fail_closed.score(monitor, requests)
    _count_monitor_time([running for running, _ in asked], started)
    counts = isinstance(monitor, CountingMonitor)
    for (running, _), value in zip(asked, scores, strict=True):
        running.scored(value, monitor.tokens_read(running.key) if counts else None)


def _text(effect: Score, thought: Thought) -> str:
    return monitored_text(thought, effect.trace, effect.answer, effect.sees_injected)


def _states(
    asked: Sequence[tuple[RunningRow, Score]], engine: Engine, layer: int | None
) -> Iterable[HiddenState | None]:
    """Hidden states of the reasoner's `layer` at the end of each trace; None for each where no layer is read."""
    if layer is None:
        return [None] * len(asked)
    assert isinstance(engine, StateEngine), "a monitor that reads hidden states was not refused"
    started = time.perf_counter()
    states = engine.states(
        [StateRequest(running.key, running.row.prompt_ids + effect.tokens.ids) for running, effect in asked], layer
    )
    _count_engine_time([running for running, _ in asked], started)
    return states


def _release(running: RunningRow, engine: Engine, monitor: Monitor | None) -> None:
    engine.release(running.key)
    if monitor is not None:
        monitor.release(running.key)


def refuse_unfit(engine: Engine, rule: Rule, monitor: Monitor | None = None) -> None:
    """Refuse a defense or a monitor that asks for what only other engines offer.

    Raises:
        ConfigError: naming the culprit.
        ArtifactError: the monitor was trained on another reasoner.
    """
    if layer_read_by(monitor) is not None and not isinstance(engine, StateEngine):
        raise ConfigError(
            f"{type(monitor).__name__} reads the reasoner's hidden states, and {type(engine).__name__} shows none"
        )
    if isinstance(monitor, FittedMonitor):
        monitor.refuse_other(engine.is_reasoner if isinstance(engine, LocalEngine) else lambda _: False)
    if rule.needs.token_level and not isinstance(engine, TokenLevelEngine):
        raise ConfigError(
            f"defense {rule.name!r} looks at single tokens, and {type(engine).__name__} does not show them"
        )
