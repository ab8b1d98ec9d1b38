"""The prefix at the start of the thinking, whatever happens: zero-shot SAFEPATH (arXiv 2505.14667)."""

from __future__ import annotations

from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Task, Until
from safethink.defenses.moves import answer, unwatched


def always(task: Task) -> Defense:
    """Inject the first prefix of the portfolio, then think and answer undisturbed."""
    first = task.prefixes[0] if task.prefixes else ()
    primed = Draft.of(task).plus(task.injection(first))
    thought = yield from unwatched(primed, Until.THOUGHT, task.streamed)
    return (yield from answer(thought, task.streamed))
