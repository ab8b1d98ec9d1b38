"""One row: a prompt and sample with its defense, opened; the defense while it runs; and what that took.

`open_row` is the only place that builds a defense's task, puts it over the turns and messages of the reasoner's
thinking, and gives it its seed. A guarded run, an evaluation, a branch, a mined continuation and a drawn
reward all begin there, so that a step is the same step in each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from safethink.defenses.effects import (
    Accept,
    Answer,
    Defense,
    Effect,
    Extend,
    Extension,
    Look,
    Task,
    Verdict,
    View,
    Weigh,
)
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt, prefill_tokens
from safethink.thinking.turns import over_turns
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt and sample, and the defense that runs on it.

    Attributes:
        prompt: what is asked.
        prompt_ids: the opened prompt, see `opening.open_prompt`.
        defense: a defense that has not begun, see `defenses.start`.
        sample: which sample of the prompt.
        seed: with the prompt's id, the sample and the number of times something was dropped, seeds an extension; so two
            defenses sample the same tokens up to the first intervention.
        label: what its caller knows it by.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    defense: Defense
    sample: int = 0
    seed: int = 0
    label: object = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, monitor calls and seconds of one row.

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
    """The part of a row that can no longer be dropped, and the number of tokens sampled by then."""

    row: Row
    standing: Accept
    sampled: int


class RunningRow:
    """A row whose defense has begun: a coroutine with its pending effect or its verdict, and its counters.

    Attributes:
        row: the row.
        key: under which engine and monitor know it.
        effect: what the defense waits for; None once it is done.
        verdict: what it returned; None while it runs.
        num_dropped: how often it went on from anything but what was sampled last.
    """

    def __init__(self, row: Row) -> None:
        """Start the row's defense."""
        self.row = row
        # No other row under way has it, in whatever run.
        self.key = id(self)
        self.effect: Effect | None = None
        self.verdict: Verdict | None = None
        self.num_dropped = 0
        self._sampled, self._forced, self._monitor_calls = 0, 0, 0
        self._monitor_tokens: int | None = None
        self._engine_seconds, self._monitor_seconds = 0.0, 0.0
        self._grown: Tokens | None = None
        self._stopped_at_once = False
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
                self._accepted.append(Accepted(self.row, self.effect, self._sampled))
                self.effect = self.row.defense.send(None)
        except StopIteration as stop:
            self.effect, self.verdict = None, stop.value
        if isinstance(self.effect, Extend | Look | Weigh):
            self._count_injected(self.effect)
        if isinstance(self.effect, Extend):
            self._notice_dropped(self.effect.tokens)

    def take_accepted(self) -> list[Accepted]:
        """Return what was accepted since the last call."""
        taken, self._accepted = self._accepted, []
        return taken

    def extended(self, extension: Extension) -> None:
        """Answer an `Extend`."""
        assert isinstance(self.effect, Extend)
        self._grown = self.effect.tokens + extension.tokens
        self._stopped_at_once = not len(extension.tokens)
        self._sampled += len(extension.tokens)
        self.answer(extension)

    def looked(self, view: View) -> None:
        """Answer a `Look`."""
        assert isinstance(self.effect, Look)
        if self.effect.top_k and view.room:
            self._sampled += 1
        self.answer(view)

    def scored(self, value: float, num_read: int | None) -> None:
        """Answer a `Score`, for which the monitor read so many tokens."""
        self._monitor_calls += 1
        if num_read is not None:
            self._monitor_tokens = (self._monitor_tokens or 0) + num_read
        self.answer(value)

    def spent(self, engine_seconds: float = 0.0, monitor_seconds: float = 0.0) -> None:
        """Count this row's part of a batch's time."""
        self._engine_seconds += engine_seconds
        self._monitor_seconds += monitor_seconds

    def finish(self) -> Finished:
        """The row with its verdict and usage, once the defense has returned."""
        assert self.verdict is not None, "still running"
        output = self.verdict.trace + self.verdict.answer
        usage = Usage(
            sampled=self._sampled,
            dropped=self._sampled - (len(output.own()) - self._own_at_start),
            forced=self._forced + _just_injected(output),
            monitor_calls=self._monitor_calls,
            monitor_tokens=self._monitor_tokens,
            engine_seconds=self._engine_seconds,
            monitor_seconds=self._monitor_seconds,
            seconds=time.perf_counter() - self._started,
        )
        return Finished(self.row, self.verdict, usage)

    def _count_injected(self, effect: Extend | Look | Weigh) -> None:
        """Count what is injected each time it is; a look at it before it is extended is the same injection."""
        tokens = effect.tokens if isinstance(effect, Extend) else effect.trace
        if tokens != self._looked_at:
            self._forced += _just_injected(tokens)
        self._looked_at = None if isinstance(effect, Extend) else tokens

    def _notice_dropped(self, tokens: Tokens) -> None:
        """Count it when the defense goes on from anything but what was sampled last.

        Where that was no token at all, whoever asks again there wants another draw.
        """
        if self._grown is None:
            self._own_at_start = len(tokens.own())
        elif tokens[: len(self._grown)] != self._grown or self._stopped_at_once:
            self.num_dropped += 1


def _just_injected(tokens: Tokens) -> int:
    """Number of injected tokens at the end."""
    return sum(1 for _ in takewhile(bool, reversed(tokens.forced)))


def open_row(
    thought: Thought,
    prompt: Prompt,
    defense: Callable[[Task], Defense],
    *,
    seed: int,
    sample: int = 0,
    prompt_ids: tuple[int, ...] | None = None,
    trace: Tokens | None = None,
    injected: tuple[int, ...] = (),
    prefixes: tuple[tuple[int, ...], ...] = (),
    streamed: bool = False,
    label: object = None,
) -> Row:
    """Open one prompt and sample under a defense.

    Args:
        thought: the format of the reasoner's thinking.
        prompt: the prompt.
        defense: takes the task and gives a defense that has not begun.
        seed: seeds the row's random numbers, together with its prompt and sample.
        sample: which sample of the prompt.
        prompt_ids: the prompt as it was opened before; None renders the chat template.
        trace: the trace so far; None for what the prompt prefills.
        injected: a prefix to inject right behind the trace, without its separator; empty for none.
        prefixes: the portfolio that the defense may inject, without separators.
        streamed: whether somebody reads along.
        label: for the caller to know the row by.

    Raises:
        PromptError: if the prompt is empty or too long.
    """
    if prompt_ids is None:
        prompt_ids = open_prompt(thought, prompt)
    start = prefill_tokens(thought, prompt) if trace is None else trace
    if injected:
        start += Tokens.injected(thought.injection(injected))
    task = Task(
        start=start,
        prefixes=tuple(map(thought.injection, prefixes)),
        close=thought.close_ids,
        refusal=thought.refusal_ids,
        streamed=streamed,
    )
    return Row(
        prompt=prompt,
        prompt_ids=prompt_ids,
        defense=over_turns(defense(task), thought),
        sample=sample,
        seed=seed,
        label=label,
    )
