"""Runs many defenses at once: gathers what they ask for and hands engine and monitor full batches."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Literal

from safethink.config import LimitsConfig
from safethink.defenses import Rule
from safethink.defenses.effects import Extend, Extension, Look, Score, Until, Weigh
from safethink.engines import (
    ContinuousEngine,
    Engine,
    ExtendRequest,
    LocalEngine,
    LookRequest,
    StateEngine,
    StateRequest,
    TokenLevelEngine,
    TokenStateEngine,
    WeighRequest,
)
from safethink.errors import ConfigError, LogitsError
from safethink.monitors import (
    CountingMonitor,
    FittedMonitor,
    Monitor,
    ScoreRequest,
    fail_closed,
    layer_read_by,
    num_unread,
    pools,
    reads_text,
)
from safethink.runtime.row import Accepted, Finished, Row, RunningRow
from safethink.seeds import stable_seed
from safethink.thinking.format import Thought
from safethink.thinking.reading import monitored_text, says_nothing, trace_text


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
        LogitsError: if the reasoner gives no numbers for a row's next token; the prompt and sample are named.
    """
    waiting = iter(rows)
    under_way: dict[int, RunningRow] = {}
    # A monitor that reads text is fast in batches; others have nothing to wait for.
    share = BATCH_SHARE if monitor is not None and reads_text(monitor) else 0.0
    layer = layer_read_by(monitor)
    if layer is not None and pools(monitor) and isinstance(engine, TokenStateEngine):
        engine.keep_states(layer)
    extending = _Extending(continuous(engine), share, thought, limits)
    try:
        while True:
            under_way |= {
                running.key: running for running in map(RunningRow, islice(waiting, batch_size - len(under_way)))
            }
            if not under_way:
                return
            with _named(under_way):
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


@contextmanager
def _named(under_way: Mapping[int, RunningRow]) -> Generator[None, None, None]:
    """Name the prompt and sample of a row that the engine, which knows keys alone, cannot continue."""
    try:
        yield
    except LogitsError as error:
        culprit = under_way.get(error.row) if error.row is not None else None
        if culprit is None:
            raise
        row = culprit.row
        raise LogitsError(f"prompt {row.prompt.id!r}, sample {row.sample}: {error}", error.row) from error


class _Extending:
    """The rows that the engine continues; some stop while others go on."""

    def __init__(self, engine: ContinuousEngine, share: float, thought: Thought, limits: LimitsConfig) -> None:
        self._engine = engine
        self._share = share
        self._thought = thought
        self._limits = limits
        # Each row with its effect, and whether a step of its may end for length with room left in the trace.
        self._under_way: dict[int, tuple[RunningRow, Extend, bool]] = {}

    def advance(self, rows: Sequence[RunningRow]) -> None:
        """Begin what is asked for, and answer those that the engine has done."""
        new: list[ExtendRequest] = []
        for running in rows:
            if not isinstance(running.effect, Extend) or running.key in self._under_way:
                continue
            room = _room(running, running.effect, self._thought, self._limits)
            new.append(_request(running, running.effect, room, self._thought, self._limits))
            self._under_way[running.key] = running, running.effect, room > new[-1].max_new_tokens
        with _timed([running for running, _, _ in self._under_way.values()], "engine_seconds"):
            self._engine.submit(new)
            extensions = self._engine.collect(list(self._under_way), self._share) if self._under_way else {}
        for key, extension in extensions.items():
            running, effect, has_room = self._under_way.pop(key)
            # A step that grew too long ends there; the thinking goes on.
            cut = extension.stop == "length" and has_room
            stopped = replace(extension, stop="step") if cut else extension
            running.extended(_read(effect, stopped, self._thought))


def _read(effect: Extend, extension: Extension, thought: Thought) -> Extension:
    """Say of a step whether it says anything, and of closed thinking whether there is anything in it.

    A defense cannot read.
    """
    by_step = effect.until in (Until.STEP, Until.ANSWER_STEP)
    empty = by_step and says_nothing(thought, effect.tokens, extension.tokens, effect.until is Until.ANSWER_STEP)
    unthought = extension.stop == "thought" and not trace_text(thought, effect.trace + extension.tokens).strip()
    return replace(extension, unthought=unthought, empty=empty)


@contextmanager
def _timed(
    rows: Sequence[RunningRow], part: Literal["engine_seconds", "monitor_seconds"]
) -> Generator[None, None, None]:
    """Share the time that a batch takes among its rows, in equal parts."""
    started = time.perf_counter()
    yield
    seconds = (time.perf_counter() - started) / max(1, len(rows))
    for running in rows:
        running.spent(**{part: seconds})


def _room(running: RunningRow, effect: Extend | Look, thought: Thought, limits: LimitsConfig) -> int:
    """Tokens that fit before the trace or answer limit, or the end of the context window."""
    num_trace, num_answer, answering = len(effect.trace), 0, False
    if isinstance(effect, Extend):
        num_answer, answering = len(effect.answer), effect.until in (Until.ANSWER, Until.ANSWER_STEP)
    room = limits.max_answer_tokens - num_answer if answering else limits.max_trace_tokens - num_trace
    if thought.context_tokens is not None:
        room = min(room, thought.context_tokens - len(running.row.prompt_ids) - num_trace - num_answer)
    return max(0, room)


def _request(running: RunningRow, effect: Extend, room: int, thought: Thought, limits: LimitsConfig) -> ExtendRequest:
    ids = running.row.prompt_ids + effect.tokens.ids
    by_step = effect.until in (Until.STEP, Until.ANSWER_STEP)
    return ExtendRequest(
        row=running.key,
        ids=ids,
        step_start=len(ids),
        until=effect.until,
        max_new_tokens=min(room, thought.longest_step(limits.max_step_tokens)) if by_step else room,
        seed=stable_seed(running.row.seed, running.row.prompt.id, running.row.sample, running.num_dropped),
        trace_start=len(running.row.prompt_ids),
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
    with _timed([running for running, _ in asked], "engine_seconds"):
        views = engine.look(requests)
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
    with _timed([running for running, _ in asked], "engine_seconds"):
        weights = engine.weigh(requests)
    for (running, _), log_probabilities in zip(asked, weights, strict=True):
        running.answer(log_probabilities)


def _score_all(rows: Iterable[RunningRow], engine: Engine, monitor: Monitor | None, thought: Thought) -> None:
    asked = [(running, running.effect) for running in rows if isinstance(running.effect, Score)]
    if not asked:
        return
    assert monitor is not None, "a defense asks for scores but there is no monitor"
    with_text = reads_text(monitor)
    requests = [
        ScoreRequest(running.key, running.row.prompt, _text(effect, thought) if with_text else "")
        for running, effect in asked
    ]
    if layer_read_by(monitor) is not None:
        requests = _with_states(requests, asked, engine, monitor)
    with _timed([running for running, _ in asked], "monitor_seconds"):
        scores = fail_closed.score(monitor, requests)
    counts = isinstance(monitor, CountingMonitor)
    for (running, _), value in zip(asked, scores, strict=True):
        running.scored(value, monitor.tokens_read(running.key) if counts else None)


def _text(effect: Score, thought: Thought) -> str:
    return monitored_text(thought, effect.trace, effect.answer, effect.sees_injected)


def _with_states(
    requests: Sequence[ScoreRequest], asked: Sequence[tuple[RunningRow, Score]], engine: Engine, monitor: Monitor
) -> list[ScoreRequest]:
    """The requests with the reasoner's hidden states at the end of each trace, or at all tokens that are unread."""
    layer = layer_read_by(monitor)
    assert layer is not None, "asked of a monitor that reads hidden states"
    assert isinstance(engine, StateEngine), "a monitor that reads hidden states was not refused"
    behind = [effect.tokens.ids for _, effect in asked]
    wanted = [
        StateRequest(running.key, running.row.prompt_ids + ids, num_unread(monitor, running.key, ids))
        for (running, _), ids in zip(asked, behind, strict=True)
    ]
    with _timed([running for running, _ in asked], "engine_seconds"):
        if pools(monitor):
            assert isinstance(engine, TokenStateEngine), "a monitor that pools was not refused"
            read = [(states[-1], states) for states in engine.token_states(wanted, layer)]
        else:
            read = [(state, None) for state in engine.states(wanted, layer)]
    return [
        replace(request, ids=ids, state=state, states=states)
        for request, ids, (state, states) in zip(requests, behind, read, strict=True)
    ]


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
    if pools(monitor) and not isinstance(engine, TokenStateEngine):
        raise ConfigError(
            f"{type(monitor).__name__} pools over the hidden states of all tokens of the trace, and "
            f"{type(engine).__name__} shows the last one's alone"
        )
    if isinstance(monitor, FittedMonitor):
        monitor.refuse_other(engine.is_reasoner if isinstance(engine, LocalEngine) else lambda _: False)
    if rule.needs.token_level and not isinstance(engine, TokenLevelEngine):
        raise ConfigError(
            f"defense {rule.name!r} looks at single tokens, and {type(engine).__name__} does not show them"
        )
