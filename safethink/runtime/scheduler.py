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
from safethink.runtime.row import Accepted, Finished, Flight, Row, Usage
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought


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
        for each in news:
            if isinstance(each, Finished):
                yield each


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
    flights: dict[int, Flight] = {}
    # A monitor that reads text is fast in batches; others have nothing to wait for.
    share = BATCH_SHARE if monitor is not None and reads_text(monitor) else 0.0
    extending = _Extending(continuous(engine), share, thought, limits)
    try:
        while True:
            flights |= {each.key: each for each in map(Flight, islice(waiting, batch_size - len(flights)))}
            if not flights:
                return
            extending.advance(list(flights.values()))
            _look_all(flights.values(), engine, thought, limits)
            _weigh_all(flights.values(), engine)
            _score_all(flights.values(), engine, monitor, thought)
            finished = [flight for flight in flights.values() if flight.verdict is not None]
            news = [each for flight in flights.values() for each in flight.take_accepted()]
            for flight in finished:
                _release(flights.pop(flight.key), engine, monitor)
            yield from news
            yield from [flight.finish() for flight in finished]
    finally:
        for flight in flights.values():
            _release(flight, engine, monitor)


class _Extending:
    """The rows that the engine continues; some stop while others go on."""

    def __init__(self, engine: ContinuousEngine, share: float, thought: Thought, limits: LimitsConfig) -> None:
        self._engine = engine
        self._share = share
        self._thought = thought
        self._limits = limits
        self._under_way: dict[int, tuple[Flight, ExtendRequest, int]] = {}

    def advance(self, flights: Sequence[Flight]) -> None:
        """Begin what is asked for, and answer those that the engine has done."""
        new = [flight for flight in flights if isinstance(flight.effect, Extend) and flight.key not in self._under_way]
        for flight in new:
            room = _room(flight, flight.effect, self._thought, self._limits)
            self._under_way[flight.key] = flight, _request(flight, room, self._thought, self._limits), room
        started = time.perf_counter()
        self._engine.submit([self._under_way[flight.key][1] for flight in new])
        if not self._under_way:
            return
        extensions = self._engine.collect(list(self._under_way), self._share)
        _share([flight for flight, _, _ in self._under_way.values()], started)
        for key, extension in extensions.items():
            flight, request, room = self._under_way.pop(key)
            # A step that grew too long ends there; the thinking goes on.
            cut = extension.stop == "length" and request.max_new_tokens < room
            flight.extended(replace(extension, stop="step") if cut else _read(flight, extension, self._thought))


def _read(flight: Flight, extension: Extension, thought: Thought) -> Extension:
    """Say of closed thinking whether there is anything in it; a defense cannot read."""
    if extension.stop != "thought" or not isinstance(flight.effect, Extend):
        return extension
    words = thought.trace_text(flight.effect.trace + extension.tokens)
    return replace(extension, unthought=not words.strip())


def _share(flights: Sequence[Flight], started: float, with_monitor: bool = False) -> None:
    """Share the time since `started` among the rows of a batch, as the engine's or the monitor's."""
    part = (time.perf_counter() - started) / len(flights)
    for flight in flights:
        flight.spent(monitor_seconds=part) if with_monitor else flight.spent(engine_seconds=part)


def _room(flight: Flight, effect: Effect | None, thought: Thought, limits: LimitsConfig) -> int:
    """Tokens that fit before the trace or answer limit, or the end of the context window."""
    assert isinstance(effect, Extend | Look)
    num_trace, num_answer = len(effect.trace), len(effect.answer) if isinstance(effect, Extend) else 0
    answering = isinstance(effect, Extend) and effect.until in (Until.ANSWER, Until.ANSWER_STEP)
    room = limits.max_answer_tokens - num_answer if answering else limits.max_trace_tokens - num_trace
    if thought.context_tokens is not None:
        room = min(room, thought.context_tokens - len(flight.row.prompt_ids) - num_trace - num_answer)
    return max(0, room)


def _request(flight: Flight, room: int, thought: Thought, limits: LimitsConfig) -> ExtendRequest:
    assert isinstance(flight.effect, Extend)
    ids = flight.row.prompt_ids + flight.effect.tokens.ids
    by_step = flight.effect.until in (Until.STEP, Until.ANSWER_STEP)
    return ExtendRequest(
        row=flight.key,
        ids=ids,
        step_start=len(ids),
        until=flight.effect.until,
        max_new_tokens=min(room, thought.longest_step(limits.max_step_tokens)) if by_step else room,
        seed=stable_seed(flight.row.seed, flight.row.prompt.id, flight.row.sample, flight.num_dropped),
    )


def _look_all(flights: Iterable[Flight], engine: Engine, thought: Thought, limits: LimitsConfig) -> None:
    asked = [(flight, flight.effect) for flight in flights if isinstance(flight.effect, Look)]
    if not asked:
        return
    assert isinstance(engine, TokenLevelEngine), "a defense that looks was not refused"
    requests = [
        LookRequest(flight.key, flight.row.prompt_ids + look.trace.ids, look.top_k, look.layer)
        for flight, look in asked
    ]
    started = time.perf_counter()
    views = engine.look(requests)
    _share([flight for flight, _ in asked], started)
    for (flight, look), view in zip(asked, views, strict=True):
        flight.looked(replace(view, room=_room(flight, look, thought, limits)))


def _weigh_all(flights: Iterable[Flight], engine: Engine) -> None:
    asked = [(flight, flight.effect) for flight in flights if isinstance(flight.effect, Weigh)]
    if not asked:
        return
    assert isinstance(engine, TokenLevelEngine), "a defense that weighs was not refused"
    requests = [
        WeighRequest(flight.key, flight.row.prompt_ids + weigh.trace.ids, weigh.continuation) for flight, weigh in asked
    ]
    started = time.perf_counter()
    weights = engine.weigh(requests)
    _share([flight for flight, _ in asked], started)
    for (flight, _), log_probabilities in zip(asked, weights, strict=True):
        flight.answer(log_probabilities)


def _score_all(flights: Iterable[Flight], engine: Engine, monitor: Monitor | None, thought: Thought) -> None:
    asked = [(flight, flight.effect) for flight in flights if isinstance(flight.effect, Score)]
    if not asked:
        return
    assert monitor is not None, "a defense asks for scores but there is no monitor"
    states = _states(asked, engine, layer_read_by(monitor))
    with_text = reads_text(monitor)
    requests = [
        ScoreRequest(flight.key, flight.row.prompt, _text(effect, thought) if with_text else "", state)
        for (flight, effect), state in zip(asked, states, strict=True)
    ]
    started = time.perf_counter()
    scores = fail_closed.score(monitor, requests)
    _share([flight for flight, _ in asked], started, with_monitor=True)
    counts = isinstance(monitor, CountingMonitor)
    for (flight, _), value in zip(asked, scores, strict=True):
        flight.scored(value, monitor.tokens_read(flight.key) if counts else None)


def _text(effect: Score, thought: Thought) -> str:
    return thought.monitored(effect.trace, effect.answer, effect.sees_injected)


def _states(asked: Sequence[tuple[Flight, Score]], engine: Engine, layer: int | None) -> Iterable[HiddenState | None]:
    """What the reasoner's own `layer` holds where each trace ends; None for each where no layer is read."""
    if layer is None:
        return [None] * len(asked)
    assert isinstance(engine, StateEngine), "a monitor that reads hidden states was not refused"
    started = time.perf_counter()
    states = engine.states(
        [StateRequest(flight.key, flight.row.prompt_ids + effect.tokens.ids) for flight, effect in asked], layer
    )
    _share([flight for flight, _ in asked], started)
    return states


def _release(flight: Flight, engine: Engine, monitor: Monitor | None) -> None:
    engine.release(flight.key)
    if monitor is not None:
        monitor.release(flight.key)


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
