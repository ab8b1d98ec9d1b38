"""Refuse as soon as the monitor fires: what a guard without steering can do."""

from __future__ import annotations

from safethink.config import GuardRefuseConfig
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Intervention, Task
from safethink.defenses.moves import accept, next_step, open_answer, score_draft


def guard_refuse(task: Task, config: GuardRefuseConfig) -> Defense:
    """Drop the first violating step, close the thinking and refuse.

    In a watched answer the refusal follows the steps that were accepted before: they may have been read already.
    """
    draft = Draft.of(task)
    while draft.is_open:
        step = yield from next_step(draft)
        # A thought without words has no step to be scored; the answer behind it is watched.
        if not step.unthought:
            value = yield from score_draft(draft.plus(step.tokens))
            draft = draft.scored(value)
            if value < config.threshold:
                return draft.noted(_violation(draft, value)).refusing(task).verdict()
        draft = draft.accepted(step)
        yield from accept(draft.standing())
        if draft.stop == "thought":
            draft = yield from open_answer(draft, config.monitor_answer, task.streamed)
    return draft.verdict()


def _violation(draft: Draft, value: float) -> Intervention:
    return Intervention(
        step=draft.index,
        score_before=value,
        score_after=None,
        resamples=0,
        prefix=None,
        outcome="refused",
        position=len(draft.growing),
        where=draft.where,
    )
