"""Runs many defenses at once: gathers what they ask for and hands engine and monitor full batches."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, takewhile
from typing import NamedTuple

from safethink.config import LimitsConfig
from safethink.defenses.effects import (
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
from safethink.monitors import Monitor, ScoreRequest, checked, layer_read_by
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
        seconds: from admission to the last token, neighbours' work included.
    """

    sampled: int = 0
    dropped: int = 0
    forced: int = 0
    monitor_calls: int = 0
    seconds: float = 0.0


class Finished(NamedTuple):
    """A row that is done."""

    row: Row
    verdict: Verdict
    usage: Usage


def run(
    rows: Iterable[Row],
    engine: Engine,
    monitor: Monitor | None,
    thought: Thought,
    limits: LimitsConfig,
    batch_size: int = 64,
) -> Generator[Finished, None, None]:
    """Run every row's defense to its end; rows are admitted as others finish.

    Args:
        rows: may be lazy; a row is taken when there is room for it.
        engine: produces the reasoner's tokens.
        monitor: scores partial traces; None where no defense asks for a score.
        thought: reads traces as text for the monitor.
        limits: how long steps, traces and answers may get.
        batch_size: the most rows at once.

    Yields:
        Rows as they finish, in no particular order.

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
        self.answer(None)

    def answer(self, result: Answer | None) -> None:
        """Send the defense what it asked for and take its next effect."""
        try:
            # A generator that has not begun takes None, and nothing else.
            self.effect = next(self.row.defense) if result is None else self.row.defense.send(result)
        except StopIteration as stop:
            self.effect, self.verdict = None, stop.value
        if isinstance(self.effect, Extend | Look | Weigh):
            self._count_injected(self.effect)
        if isinstance(self.effect, Extend):
            self._notice_dropped(self.effect.trace)

    def extended(self, extension: Extension) -> None:
        """Answer an `Extend`."""
        assert isinstance(self.effect, Extend)
        self._grown = self.effect.trace + extension.tokens
        self.usage = replace(self.usage, sampled=self.usage.sampled + len(extension.tokens))
        self.answer(extension)

    def looked(self, view: View) -> None:
        """Answer a `Look`."""
        assert isinstance(self.effect, Look)
        self.usage = replace(self.usage, sampled=self.usage.sampled + bool(self.effect.top_k and view.room))
        self.answer(view)

    def _count_injected(self, effect: Extend | Look | Weigh) -> None:
        """Count what is injected each time it is; a look at it before it is extended is the same injection."""
        if effect.trace != self._looked_at:
            self.usage = replace(self.usage, forced=self.usage.forced + _just_injected(effect.trace))
        self._looked_at = None if isinstance(effect, Extend) else effect.trace

    def _notice_dropped(self, trace: Tokens) -> None:
        """Count it when the defense goes on from anything but what was sampled last."""
        if self._grown is None:
            self._own_at_start = len(trace.own())
        elif trace[: len(self._grown)] != self._grown:
            self.num_dropped += 1

    def scored(self, value: float) -> None:
        """Answer a `Score`."""
        self.usage = replace(self.usage, monitor_calls=self.usage.monitor_calls + 1)
        self.answer(value)

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
    requests = [_request(flight, room, limits) for flight, room in zip(flights, rooms, strict=True)]
    for flight, room, request, extension in zip(flights, rooms, requests, engine.extend(requests), strict=True):
        # A step that grew too long ends there; the thinking goes on.
        cut = extension.stop == "length" and request.max_new_tokens < room
        flight.extended(replace(extension, stop="step") if cut else extension)


def _room(flight: _Flight, effect: Extend | Look, thought: Thought, limits: LimitsConfig) -> int:
    """Tokens that fit before the trace or answer limit, or the end of the context window."""
    num_trace = len(effect.trace)
    answering = isinstance(effect, Extend) and effect.until is Until.ANSWER
    room = limits.max_answer_tokens if answering else limits.max_trace_tokens - num_trace
    if thought.context_tokens is not None:
        room = min(room, thought.context_tokens - len(flight.row.prompt_ids) - num_trace)
    return max(0, room)


def _request(flight: _Flight, room: int, limits: LimitsConfig) -> ExtendRequest:
    assert isinstance(flight.effect, Extend)
    ids = flight.row.prompt_ids + flight.effect.trace.ids
    return ExtendRequest(
        row=flight.key,
        ids=ids,
        step_start=len(ids),
        until=flight.effect.until,
        max_new_tokens=min(room, limits.max_step_tokens) if flight.effect.until is Until.STEP else room,
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
    for (flight, look), view in zip(asked, engine.look(requests), strict=True):
        flight.looked(replace(view, room=_room(flight, look, thought, limits)))


def _weigh_all(flights: Sequence[_Flight], engine: Engine) -> None:
    asked = [(flight, flight.effect) for flight in flights if isinstance(flight.effect, Weigh)]
    if not asked:
        return
    assert isinstance(engine, TokenLevelEngine), "a defense that weighs was not refused"
    requests = [
        WeighRequest(flight.key, flight.row.prompt_ids + weigh.trace.ids, weigh.continuation) for flight, weigh in asked
    ]
    for (flight, _), log_probabilities in zip(asked, engine.weigh(requests), strict=True):
        flight.answer(log_probabilities)


def _score_all(flights: Sequence[_Flight], engine: Engine, monitor: Monitor | None, thought: Thought) -> None:
    asked = [(flight, flight.effect) for flight in flights if isinstance(flight.effect, Score)]
    if not asked:
        return
    assert monitor is not None, "a defense asks for scores but there is no monitor"
    states = _states(asked, engine, layer_read_by(monitor))
    requests = [
        ScoreRequest(flight.key, flight.row.prompt, thought.trace_text(effect.trace), state)
        for (flight, effect), state in zip(asked, states, strict=True)
    ]
    for (flight, _), value in zip(asked, checked.score(monitor, requests), strict=True):
        flight.scored(value)


def _states(asked: Sequence[tuple[_Flight, Score]], engine: Engine, layer: int | None) -> Iterable[HiddenState | None]:
    """What the reasoner's own `layer` holds where each trace ends; None for each where no layer is read."""
    if layer is None:
        return [None] * len(asked)
    assert isinstance(engine, StateEngine), "a monitor that reads hidden states was not refused"
    return engine.states(
        [StateRequest(flight.key, flight.row.prompt_ids + effect.trace.ids) for flight, effect in asked], layer
    )


def _release(flight: _Flight, engine: Engine, monitor: Monitor | None) -> None:
    engine.release(flight.key)
    if monitor is not None:
        monitor.release(flight.key)
