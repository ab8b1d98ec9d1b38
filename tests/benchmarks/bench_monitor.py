"""What a guard costs as the trace grows: tokens it reads per step, and seconds, at 100 to 2,000 tokens of trace.

The guard has random weights and a window of 4,096, and the traces are forced on it: a step of plain words at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from safethink.models.loading import CausalLM, load_causal_lm
from safethink.monitors import ScoreRequest
from safethink.monitors.guards.generative import GuardMonitor, Verdicts
from safethink.monitors.guards.presets import LLAMA_GUARD
from safethink.monitors.guards.questions import Asker
from safethink.prompts import Prompt
from safethink.testbed import folders
from tests.benchmarks.frame import BenchRow
from tests.benchmarks.runtime_models import GUARD, SMALL_GUARD, Shape, random_model

STEP = "first add the two numbers and then take away what was given to the other side of the table .\n\n"
FROM_TOKENS, TO_TOKENS = 100, 2000
SHORT_TOKENS, LONG_TOKENS = 200, 2000
MAX_READ = 1.05
MAX_SLOWDOWN = 1.3
TOLERANCE = 1e-4
SHAPES = (GUARD, SMALL_GUARD)
NUM_TIMED = 15
PROMPT = Prompt.from_text("how much is it ?")


@dataclass(frozen=True, slots=True)
class _Step:
    """One score of a growing trace.

    Attributes:
        num_trace: tokens of the trace by then, the guard's own.
        read: what the guard read for it, over what it had to.
        seconds: how long it took.
    """

    num_trace: int
    read: float
    seconds: float


def rows() -> Iterator[BenchRow]:
    """Tokens read per step over those that cannot be spared, and seconds at 2,000 tokens over those at 200."""
    # Random weights have no use for verdicts, and say so.
    logging.getLogger("safethink.monitors").setLevel(logging.ERROR)
    shipped = load_causal_lm(folders().guard)
    grown = {shape: _grow(CausalLM(random_model(shipped.tokenizer, shape, 1), shipped.tokenizer)) for shape in SHAPES}
    steps, exact = grown[GUARD]
    read = sorted(step.read for step in steps if step.num_trace >= FROM_TOKENS)
    early, late = (median(step.read for step in steps if abs(step.num_trace - at) < 100) for at in (150, TO_TOKENS))
    note = f"worst step; median {early:.3f} near 150 tokens of trace, {late:.3f} near {TO_TOKENS}"
    yield BenchRow("guard_tokens_read_per_step", read[-1], read[0], read[-1], MAX_READ, "at_most", exact, note)
    yield _slowdown("monitor_seconds_2000_over_200", GUARD, steps, exact, MAX_SLOWDOWN)
    # Where little is computed per token, looking back at 2,000 of them is much of it: reported, no target.
    yield _slowdown("monitor_seconds_2000_over_200_narrow", SMALL_GUARD, *grown[SMALL_GUARD], target=None)


def _grow(guard: CausalLM) -> tuple[list[_Step], bool]:
    """Score a growing trace; say whether the last score is that of a guard that reads it for the first time."""
    monitor, asker = GuardMonitor(guard.model, guard.tokenizer), Asker(guard.tokenizer, LLAMA_GUARD.form)
    verdicts = Verdicts.of(LLAMA_GUARD, asker)
    # All but the last token of each verdict is read.
    num_verdicts = sum(len(ids) - 1 for ids in verdicts.ids)
    steps: list[_Step] = []
    before = asker.ask(PROMPT, "").trace.stop
    trace, score = "", 0.0
    while not steps or steps[-1].num_trace < TO_TOKENS:
        trace += STEP
        question = asker.ask(PROMPT, trace)
        started = time.perf_counter()
        (score,) = monitor.score([ScoreRequest(0, PROMPT, trace)])
        seconds = time.perf_counter() - started
        needed = len(question.ids) - before + num_verdicts
        read = monitor.tokens_read(0) / needed
        steps.append(_Step(len(question.trace), read, seconds))
        before = question.trace.stop
    cold = GuardMonitor(guard.model, guard.tokenizer)
    return steps, abs(score - cold.score([ScoreRequest(0, PROMPT, trace)])[0]) < TOLERANCE


def _slowdown(name: str, shape: Shape, steps: list[_Step], exact: bool, target: float | None) -> BenchRow:
    """Seconds of the steps nearest to the long length, over those of the steps nearest to the short one."""
    long, short = (
        sorted(step.seconds for step in sorted(steps, key=lambda step: abs(step.num_trace - at))[:NUM_TIMED])
        for at in (LONG_TOKENS, SHORT_TOKENS)
    )
    ratios = sorted(slow / median(short) for slow in long)
    note = f"{shape.layers} layers of width {shape.hidden}; {median(short) * 1e3:.0f} ms per step at {SHORT_TOKENS}"
    return BenchRow(
        name,
        median(long) / median(short),
        ratios[0],
        ratios[-1],
        target,
        "at_most",
        exact,
        note,
    )
