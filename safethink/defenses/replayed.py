"""A defense on a row whose first steps were sampled before: it sees them come, and decides anew what to do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from safethink.defenses.effects import Defense, Extend, Extension, Task, Until


def replayed(task: Task, defense: Callable[[Task], Defense], steps: Sequence[Extension]) -> Defense:
    """Run a defense, and give it recorded steps before the reasoner is asked for any.

    Where it drops one of them the reasoner goes on from there, and what was recorded behind it is forgotten.

    Args:
        task: the row, from before the first of these steps.
        defense: takes the task and gives a defense that has not begun.
        steps: what the reasoner proposed, in order.
    """
    running, recorded, answer = defense(task), deque(steps), None
    expected = task.start
    while True:
        try:
            # A generator that has not begun takes None, and nothing else.
            effect = next(running) if answer is None else running.send(answer)
        except StopIteration as stop:
            return stop.value
        if isinstance(effect, Extend) and recorded and effect.until is Until.STEP and effect.tokens == expected:
            answer = recorded.popleft()
            expected += answer.tokens
        else:
            if isinstance(effect, Extend):
                recorded.clear()
            answer = yield effect
