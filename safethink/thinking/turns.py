"""Reasoners whose thinking is more than one stretch of text; a defense need not know.

Some think over several turns of a chat, such as LlamaV-o1 (arXiv 2501.06186). Where such a reasoner ends a turn, its
thinking is not over: the next question is put to it. The questions are the template's, not the model's and not the
attacker's, so they stand in the trace as injected tokens. To a defense a turn ends a step, and the last question closes
the thinking.

Some think in several messages, such as gpt-oss. A step that was cut in the header of one goes on to where the message
is open, so that nothing is ever injected between two.

Some do not think at all. To a defense their thinking is over before it begins, with nothing in it, and it does what it
does with a reasoner that has closed its thinking at once: it watches the answer, unasked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from safethink.defenses.effects import Defense, Extend, Extension, Score, Until
from safethink.defenses.moves import Move, extend
from safethink.thinking.format import Thought
from safethink.tokens import Tokens

Turns = Sequence[tuple[int, ...]]
"""Token ids that follow each turn of the reasoner, see `Thought.turns`."""
Between = Callable[[tuple[int, ...]], bool]
"""Predicate on the ids of a trace: whether it ends between two messages."""


def over_turns(defense: Defense, thought: Thought) -> Defense:
    """A defense that has not begun, as it runs on one reasoner: over all turns and messages of its thinking."""
    if not thought.family.thinks:
        return without_thinking(defense)
    if not thought.family.message_breaks:
        return defense
    return in_turns(defense, thought.turns, thought.is_between_messages)


def in_turns(defense: Defense, turns: Turns, between: Between) -> Defense:
    """Run `defense` on a reasoner that thinks over several turns or messages.

    Args:
        defense: one that has not begun.
        turns: what follows each turn of the reasoner; empty for one that thinks in one turn.
        between: whether a trace ends between two messages.
    """
    answer = None
    while True:
        try:
            # A generator that has not begun takes None, and nothing else.
            effect = next(defense) if answer is None else defense.send(answer)
        except StopIteration as stop:
            return stop.value
        if isinstance(effect, Extend) and effect.until in (Until.STEP, Until.THOUGHT):
            answer = yield from _extend(effect, turns, between)
        else:
            answer = yield effect


def without_thinking(defense: Defense) -> Defense:
    """Run `defense` on a model that does not think: its trace has no steps and no score of its own.

    Args:
        defense: one that has not begun.
    """
    answer = None
    while True:
        try:
            effect = next(defense) if answer is None else defense.send(answer)
        except StopIteration as stop:
            return replace(stop.value, step_scores=())
        if isinstance(effect, Extend) and effect.until in (Until.STEP, Until.THOUGHT):
            answer = Extension(Tokens(), "thought", unthought=True)
        elif isinstance(effect, Score) and not len(effect.answer):
            # Of a prefill the first score of the answer reads all.
            answer = 1.0
        else:
            answer = yield effect


def turn_length(trace: Tokens, place: int, turns: Turns) -> int:
    """Number of tokens of the question that stands in `trace` from `place` on; 0 where none does."""
    asked = (turn[shared:] for turn in turns for shared in (0, 1))
    return next((len(turn) for turn in asked if _stands(turn, trace, place)), 0)


def _extend(effect: Extend, turns: Turns, between: Between) -> Move[Extension]:
    """Do what `effect` asks for, over as many turns and messages as that takes."""
    new, empty = Tokens(), True
    while True:
        extension = yield from extend(effect.trace + new, effect.until)
        new, empty = new + extension.tokens, empty and extension.empty
        if extension.stop == "step" and between((effect.trace + new).ids):
            continue
        if extension.stop != "end" or not turns:
            return replace(extension, tokens=new, empty=empty)
        num_asked = _num_asked(effect.trace + new, turns)
        turn = turns[num_asked]
        # Where the model stopped at the end-of-turn token, it has written that token itself.
        already_written = 1 if new.ids[-1] == turn[0] else 0
        new += Tokens.injected(turn[already_written:])
        if num_asked + 1 == len(turns):
            return Extension(new, "thought", empty=empty)
        if effect.until is Until.STEP:
            return Extension(new, "step", empty=empty)


def _num_asked(trace: Tokens, turns: Turns) -> int:
    """Number of questions that stand in a trace."""
    num_asked = 0
    for place in range(len(trace)):
        if num_asked < len(turns) - 1 and _stands(turns[num_asked][1:], trace, place):
            num_asked += 1
    return num_asked


def _stands(injected: tuple[int, ...], trace: Tokens, place: int) -> bool:
    stop = place + len(injected)
    return trace.ids[place:stop] == injected and all(trace.forced[place:stop])
