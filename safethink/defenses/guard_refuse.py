"""Refuse as soon as the monitor fires: what a guard without steering can do."""

from __future__ import annotations

from safethink.config import GuardRefuseConfig
from safethink.defenses.effects import Defense, Intervention, Task, Until
from safethink.defenses.moves import answer, extend, refuse, score


def guard_refuse(task: Task, config: GuardRefuseConfig) -> Defense:
    """Drop the first violating step, close the thinking and refuse."""
    trace, scores = task.start, ()
    index = task.first_step
    while True:
        step = yield from extend(trace, Until.STEP)
        value = yield from score(trace + step.tokens)
        scores = (*scores, value)
        if value < config.threshold:
            violation = Intervention(
                step=index,
                score_before=value,
                score_after=None,
                resamples=0,
                prefix=None,
                outcome="refused",
                position=len(trace),
            )
            return refuse(task, trace, (violation,), scores)
        trace += step.tokens
        if step.ends_thought:
            return (yield from answer(trace, step.stop, step_scores=scores))
        index += 1
