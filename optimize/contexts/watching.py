"""Scores of traces that are there already, by the reasoner's monitor, whether it reads text or hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safethink.defenses.effects import Defense, Task, Verdict
from safethink.defenses.moves import score
from safethink.guarded import SafeThink
from safethink.monitors import fail_closed, layer_read_by
from safethink.prompts import Prompt
from safethink.runtime import scheduler
from safethink.runtime.result import Result
from safethink.runtime.row import open_row
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Watched:
    """A trace to be scored.

    Attributes:
        prompt: what was asked.
        prompt_ids: the opened prompt.
        trace: the trace, or a beginning of it.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    trace: Tokens

    @classmethod
    def of(cls, result: Result) -> Watched:
        """The whole trace of a result."""
        return cls(result.prompt, result.prompt_ids, result.verdict.trace)


def scores(guarded: SafeThink, traces: Sequence[Watched], in_place: bool = False) -> list[float]:
    """One score per trace, in order.

    What was injected is never read: of hidden states, those of the trace read again without it. A defense cannot do
    that while it runs.

    Args:
        guarded: the reasoner and its monitor.
        traces: what is scored.
        in_place: whether a monitor on hidden states reads the trace as it stands, as it does under a defense.

    Raises:
        MonitorError: the monitor fails; the prompt is named.
    """
    monitor = guarded.monitor
    assert monitor is not None, "learning has a monitor"
    if layer_read_by(monitor) is None:
        texts = [(each.prompt, trace_text(guarded.thought, each.trace)) for each in traces]
        return fail_closed.score_texts(monitor, texts)
    rows = [
        open_row(
            guarded.thought,
            each.prompt,
            watch,
            seed=0,
            sample=place,
            prompt_ids=each.prompt_ids,
            trace=each.trace if in_place else Tokens.sampled(each.trace.own()),
        )
        for place, each in enumerate(traces)
    ]
    run = scheduler.run(rows, guarded.engine, monitor, guarded.thought, guarded.limits, guarded.batch_size)
    scored = {row.sample: verdict.step_scores[0] for row, verdict, _ in run}
    return [scored[place] for place in range(len(rows))]


def watch(task: Task) -> Defense:
    """Have the trace scored as it is, and add nothing to it."""
    value = yield from score(task.start)
    return Verdict(task.start, Tokens(), closed=False, step_scores=(value,))
