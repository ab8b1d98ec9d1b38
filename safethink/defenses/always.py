"""The prefix at the start of the thinking, whatever happens: zero-shot SAFEPATH (arXiv 2505.14667)."""

from __future__ import annotations

from safethink.defenses.effects import Defense, Task, Until
from safethink.defenses.moves import answer, extend


def always(task: Task) -> Defense:
    """Inject the first prefix of the portfolio, then think and answer undisturbed."""
    primed = task.start + task.injection(task.prefixes[0])
    thought = yield from extend(primed, Until.THOUGHT)
    return (yield from answer(primed + thought.tokens, thought.stop))
