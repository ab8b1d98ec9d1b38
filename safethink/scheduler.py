"""Runs many defenses at once: gathers what they ask for and hands engine and monitor full batches."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile
from typing import NamedTuple

from safethink.config import LimitsConfig
from safethink.defenses.effects import (
    Accept,
    Answer,
    Defense,
    Effect,
    Extend,
    Extension,
    Look,
    Score,
    Until,
    Verdict,
    View,
    Weigh,
)
from safethink.engines import (
    Engine,
    ExtendRequest,
    LookRequest,
    StateEngine,
    StateRequest,
    TokenLevelEngine,
    WeighRequest,
)
from safethink.monitors import Monitor, ScoreRequest, checked, layer_read_by, tokens_read
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.states import HiddenState
from safethink.thought import Thought
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and sample, and the defense that runs on it.

    Attributes:
        prompt: what is asked.
        prompt_ids: the opened prompt, see `Thought.open_prompt`.
        defense: a defense that has not begun, see `defenses.start`.
        sample: which sample of the prompt.
        seed: with the prompt's id, the sample and the number of times something was dropped, seeds an extension; so two
            defenses sample the same tokens up to the first intervention.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    defense: Defense
    sample: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one row took.

    Attributes:
        sampled: tokens the reasoner produced, dropped ones included; also one for each look at its likeliest tokens.
        dropped: those of them that are neither in the trace nor in the answer.
        forced: tokens injected, each time they were.
        monitor_calls: how often the monitor was asked.
        monitor_tokens: what the monitor had to read for it, in tokens of its own; None where it does not say.
        engine_seconds: time in the engine. A batch's time is shared among its rows in equal parts, so that the rows'
            add up to what the run took.
        monitor_seconds: time in the monitor, shared in the same way.
        seconds: from admission to the last token, neighbours' work included.
    """

    sampled: int = 0
    dropped: int = 0
    forced: int = 0
    monitor_calls: int = 0
    monitor_tokens: int | None = None
    engine_seconds: float = 0.0
    monitor_seconds: float = 0.0
    seconds: float = 0.0


class Finished(NamedTuple):
    """A row that is done."""

    row: Row
    verdict: Verdict
    usage: Usage


class Accepted(NamedTuple):
    """What stands of a row that goes on, and how many tokens it has sampled by then."""

    row: Row
    standing: Accept
    sampled: int


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
    waiting, flights, keys = iter(rows), list[_Flight](), count()
    try:
        while True:
            flights += [_Flight(row, next(keys)) for row in islice(waiting, batch_size - len(flights))]
            if not flights:
                return
            _extend_all([flight for flight in flights if isinstance(flight.effect, Extend)], engine, thought, limits)
            _look_all([flight for flight in flights if isinstance(flight.effect, Look)], engine, thought, limits)
            _weigh_all([flight for flight in flights if isinstance(flight.effect, Weigh)], engine)
            _score_all(flights, engine, monitor, thought)
            finished = [flight for flight in flights if flight.verdict is not None]
            flights = [flight for flight in flights if flight.verdict is None]
            for flight in finished:
                _release(flight, engine, monitor)
            yield from [each for flight in (*finished, *flights) for each in flight.take_accepted()]
            yield from [flight.finish() for flight in finished]
    finally:
        for flight in flights:
            _release(flight, engine, monitor)


class _Flight:
    """A row whose defense is running: the effect it waits for, or its verdict."""

    def __init__(self, row: Row, key: int) -> None:
        self.row = row
        self.key = key
        self.effect: Effect | None = None
        self.verdict: Verdict | None = None
        self.usage = Usage()
        self.num_dropped = 0
        self._grown: Tokens | None = None
        self._looked_at: Tokens | None = None
        self._own_at_start = 0
        self._started = time.perf_counter()
        self._accepted: list[Accepted] = []
        self.answer(None)

    def answer(self, result: Answer) -> None:
        """Send the defense what it asked for and take its next effect; what it accepts is passed on."""
        try:
            # A generator that has not begun takes None, and nothing else.
            self.effect = self.row.defense.send(result)
            while isinstance(self.effect, Accept):
                self._accepted.append(Accepted(self.row, self.effect, self.usage.sampled))
                self.effect = self.row.defense.send(None)
        except StopIteration as stop:
            self.effect, self.verdict = None, stop.value
        if isinstance(self.effect, Extend | Look | Weigh):
            self._count_injected(self.effect)
        if isinstance(self.effect, Extend):
            self._notice_dropped(self.effect.tokens)

    def take_accepted(self) -> list[Accepted]:
        """What was accepted since this was last asked."""
        taken, self._accepted = self._accepted, []
        return taken

    def extended(self, extension: Extension) -> None:
        """Answer an `Extend`."""
        assert isinstance(self.effect, Extend)
        self._grown = self.effect.tokens + extension.tokens
        self.usage = replace(self.usage, sampled=self.usage.sampled + len(extension.tokens))
        self.answer(extension)

    def looked(self, view: View) -> None:
        """Answer a `Look`."""
        assert isinstance(self.effect, Look)
        self.usage = replace(self.usage, sampled=self.usage.sampled + bool(self.effect.top_k and view.room))
        self.answer(view)

    def _count_injected(self, effect: Extend | Look | Weigh) -> None:
        """Count what is injected each time it is; a look at it before it is extended is the same injection."""
        tokens = effect.tokens if isinstance(effect, Extend) else effect.trace
        if tokens != self._looked_at:
            self.usage = replace(self.usage, forced=self.usage.forced + _just_injected(tokens))
        self._looked_at = None if isinstance(effect, Extend) else tokens

    def _notice_dropped(self, tokens: Tokens) -> None:
        """Count it when the defense goes on from anything but what was sampled last."""
        if self._grown is None:
            self._own_at_start = len(tokens.own())
        elif tokens[: len(self._grown)] != self._grown:
            self.num_dropped += 1

    def scored(self, value: float, num_read: int | None) -> None:
        """Answer a `Score`, for which the monitor read so many tokens."""
        usage = self.usage
        read = usage.monitor_tokens if num_read is None else (usage.monitor_tokens or 0) + num_read
        self.usage = replace(usage, monitor_calls=usage.monitor_calls + 1, monitor_tokens=read)
        self.answer(value)

    def spent(self, engine_seconds: float = 0.0, monitor_seconds: float = 0.0) -> None:
        """Count this row's part of a batch's time."""
        self.usage = replace(
            self.usage,
            engine_seconds=self.usage.engine_seconds + engine_seconds,
            monitor_seconds=self.usage.monitor_seconds + monitor_seconds,
        )

    def finish(self) -> Finished:
        """What became of the row."""
        assert self.verdict is not None, "still running"
        output = self.verdict.trace + self.verdict.answer
        usage = replace(
            self.usage,
            dropped=self.usage.sampled - (len(output.own()) - self._own_at_start),
            forced=self.usage.forced + _just_injected(output),
            seconds=time.perf_counter() - self._started,
        )
        return Finished(self.row, self.verdict, usage)


def _just_injected(tokens: Tokens) -> int:
    """Number of injected tokens at the end."""
    return sum(1 for _ in takewhile(bool, reversed(tokens.forced)))


def _extend_all(flights: Sequence[_Flight], engine: Engine, thought: Thought, limits: LimitsConfig) -> None:
    if not flights:
        return
    rooms = [_room(flight, flight.effect, thought, limits) for flight in flights if isinstance(flight.effect, Extend)]
    requests = [_request(flight, room, thought, limits) for flight, room in zip(flights, rooms, strict=True)]
    started = time.perf_counter()
    extensions = engine.extend(requests)
    _share(flights, started)
    for flight, room, request, extension in zip(flights, rooms, requests, extensions, strict=True):
        # A step that grew too long ends there; the thinking goes on.
        cut = extension.stop == "length" and request.max_new_tokens < room
        flight.extended(replace(extension, stop="step") if cut else _read(flight, extension, thought))


def _read(flight: _Flight, extension: Extension, thought: Thought) -> Extension:
    """Say of closed thinking whether there is anything in it; a defense cannot read."""
    if extension.stop != "thought" or not isinstance(flight.effect, Extend):
        return extension
    words = thought.trace_text(flight.effect.trace + extension.tokens)
    return replace(extension, unthought=not words.strip())


def _share(flights: Sequence[_Flight], started: float, with_monitor: bool = False) -> None:
    """Share the time since `started` among the rows of a batch, as the engine's or the monitor's."""
    part = (time.perf_counter() - started) / len(flights)
    for flight in flights:
        flight.spent(monitor_seconds=part) if with_monitor else flight.spent(engine_seconds=part)


def _room(flight: _Flight, effect: Extend | Look, thought: Thought, limits: LimitsConfig) -> int:
    """Tokens that fit before the trace or answer limit, or the end of the context window."""
    num_trace, num_answer = len(effect.trace), len(effect.answer) if isinstance(effect, Extend) else 0
    answering = isinstance(effect, Extend) and effect.until in (Until.ANSWER, Until.ANSWER_STEP)
    room = limits.max_answer_tokens - num_answer if answering else limits.max_trace_tokens - num_trace
    if thought.context_tokens is not None:
        room = min(room, thought.context_tokens - len(flight.row.prompt_ids) - num_trace - num_answer)
    return max(0, room)


def _request(flight: _Flight, room: int, thought: Thought, limits: LimitsConfig) -> ExtendRequest:
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


def _look_all(flights: Sequence[_Flight], engine: Engine, thought: Thought, limits: LimitsConfig) -> None:
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


def _weigh_all(flights: Sequence[_Flight], engine: Engine) -> None:
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


def _score_all(flights: Sequence[_Flight], engine: Engine, monitor: Monitor | None, thought: Thought) -> None:
    asked = [(flight, flight.effect) for flight in flights if isinstance(flight.effect, Score)]
    if not asked:
        return
    assert monitor is not None, "a defense asks for scores but there is no monitor"
    states = _states(asked, engine, layer_read_by(monitor))
    requests = [
        ScoreRequest(
            flight.key, flight.row.prompt, thought.monitored(effect.trace, effect.answer, effect.sees_injected), state
        )
        for (flight, effect), state in zip(asked, states, strict=True)
    ]
    started = time.perf_counter()
    scores = checked.score(monitor, requests)
    _share([flight for flight, _ in asked], started, with_monitor=True)
    for (flight, _), value in zip(asked, scores, strict=True):
        flight.scored(value, tokens_read(monitor, flight.key))


def _states(asked: Sequence[tuple[_Flight, Score]], engine: Engine, layer: int | None) -> Iterable[HiddenState | None]:
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


def _release(flight: _Flight, engine: Engine, monitor: Monitor | None) -> None:
    engine.release(flight.key)
    if monitor is not None:
        monitor.release(flight.key)
