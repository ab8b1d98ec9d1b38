"""No defense: the reasoner alone."""

from __future__ import annotations

from safethink.defenses.effects import Defense, Task, Until
from safethink.defenses.moves import answer, extend


def undefended(task: Task) -> Defense:
    """Think, then answer."""
    thought = yield from extend(task.start, Until.THOUGHT)
    return (yield from answer(task.start + thought.tokens, thought.stop))
