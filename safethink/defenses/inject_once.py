"""One injection at the place where a row begins, and no monitor from there on: what a prefix does by itself."""

from __future__ import annotations

from safethink.defenses.always import always
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Task, Until
from safethink.defenses.moves import accept, answer, next_step, unwatched


def inject_once(task: Task, keep_prefix: bool) -> Defense:
    """Inject the first prefix of the portfolio, take the step behind it, then think on and answer undisturbed.

    Args:
        task: the row.
        keep_prefix: whether the prefix stays in the trace once that step is taken, as of `SafeThinkConfig`.
    """
    if keep_prefix or not task.prefixes:
        return (yield from always(task))
    draft = Draft.of(task)
    step = yield from next_step(draft.plus(task.injection(task.prefixes[0])))
    draft = draft.accepted(step)
    yield from accept(draft.standing())
    if draft.is_open:
        draft = yield from unwatched(draft, Until.THOUGHT, task.streamed)
    return (yield from answer(draft, task.streamed))
