"""No defense: the reasoner alone."""

from __future__ import annotations

from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Task, Until
from safethink.defenses.moves import answer, unwatched


def undefended(task: Task) -> Defense:
    """Think, then answer."""
    thought = yield from unwatched(Draft.of(task), Until.THOUGHT, task.streamed)
    return (yield from answer(thought, task.streamed))
