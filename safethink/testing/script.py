"""A scripted engine and monitor for one row: a defense plays against them in microseconds.

Every token that the script produces is new, but for the one that closes the thinking, so that whatever a defense passes
on can be traced to where it was sampled.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Final

from safethink.defenses import Rule
from safethink.defenses.effects import (
    Accept,
    Answer,
    Effect,
    Extend,
    Extension,
    Look,
    Score,
    StopReason,
    Task,
    Until,
    Verdict,
    View,
    Weigh,
)
from safethink.errors import DefenseError
from safethink.tokens import Tokens

CLOSE: Final = 7
"""The token that closes the thinking."""
REFUSAL: Final = (8, 9)
FIRST_SAMPLED: Final = 1000
"""First of the token ids that only the script samples."""
STEP_TOKENS: Final = 2
MAX_EFFECTS: Final = 2000
"""A defense that asks for more in a scene of a few steps is taken never to end."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A scripted scenario on one row.

    Attributes:
        name: what faults call it.
        task: what the defense is told.
        passes: whether the k-th score is above the threshold, over and over.
        num_steps: steps of the trace.
        stop: how the thinking ends.
        num_answer_steps: steps of the answer.
        reopens: whether the thinking opens again behind the answer's first step.
        unthought: whether there is nothing in the thinking.
        empties: whether the k-th step that is asked for says nothing, over and over.
        threshold: what scores stand above or below.
    """

    name: str
    task: Task
    passes: tuple[bool, ...] = (True,)
    num_steps: int = 4
    stop: StopReason = "thought"
    num_answer_steps: int = 2
    reopens: bool = False
    unthought: bool = False
    empties: tuple[bool, ...] = (False,)
    threshold: float = 0.0


def scenes(rule: Rule) -> tuple[Scene, ...]:
    """The scenes that every defense is played through."""
    prefixes = ((90, 91, 96), (95, 96)) if rule.needs.prefix else ()
    task = Task(prefixes=prefixes, close=(CLOSE,), refusal=REFUSAL)
    started = Tokens.sampled((20, 21)) + Tokens.injected((22,))
    threshold = rule.needs.threshold or 0.0
    mixed = (True, False, False, True, False)
    plain = Scene("safe", task, threshold=threshold)
    return (
        plain,
        replace(plain, name="unsafe", passes=(False,)),
        replace(plain, name="mixed", passes=mixed),
        replace(plain, name="late", passes=(True, True, False)),
        replace(plain, name="one step", num_steps=1, passes=mixed),
        replace(plain, name="cut off", stop="length", passes=mixed),
        replace(plain, name="ended in its thinking", stop="end", passes=mixed),
        replace(plain, name="reopened", reopens=True, passes=mixed),
        replace(plain, name="unthought", unthought=True, num_steps=1, passes=mixed),
        replace(plain, name="empty", empties=(False, True, True, False, True), passes=mixed),
        replace(plain, name="started", task=replace(task, start=started, first_step=1), passes=mixed),
        replace(plain, name="one prefix", task=replace(task, prefixes=prefixes[:1]), passes=(False, False, True)),
        replace(plain, name="no prefix", task=replace(task, prefixes=()), passes=mixed),
    )


@dataclass
class Script:
    """Answers what one defense asks for.

    Attributes:
        scene: what happens.
        sampled: every id that was produced, the closing token left out.
        continuations: what was produced, by the reasoner's own tokens that stood before it.
        scores: every score that was given.
    """

    scene: Scene
    sampled: set[int] = field(default_factory=set[int])
    continuations: dict[tuple[int, ...], list[tuple[int, ...]]] = field(
        default_factory=dict[tuple[int, ...], list[tuple[int, ...]]]
    )
    scores: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self._passes = cycle(self.scene.passes)
        self._empties = cycle(self.scene.empties)
        self._num_given = len(self.scene.task.start.own())

    def answer(self, effect: Effect) -> Answer:
        """The scripted answer to an effect."""
        match effect:
            case Extend():
                return self._extension(effect)
            case Score():
                return self._score()
            case Look():
                return self._view(effect)
            case Weigh():
                return tuple(-0.5 - 0.01 * place for place in range(len(effect.continuation)))
            case Accept():
                return None

    def _extension(self, effect: Extend) -> Extension:
        scene, until = self.scene, effect.until
        answering = until in (Until.ANSWER, Until.ANSWER_STEP)
        num_own = len(effect.answer.own()) if answering else len(effect.trace.own()) - self._num_given
        whole, begun = scene.num_answer_steps if answering else scene.num_steps, num_own // STEP_TOKENS
        left = max(1, whole - begun)
        reopens = answering and scene.reopens and begun == 0
        num_steps = 1 if reopens or until in (Until.STEP, Until.ANSWER_STEP) else left
        stop: StopReason = "reopened" if reopens else "step"
        if num_steps == left and not reopens:
            stop = "end" if answering else scene.stop
        ids = self._fresh(num_steps * STEP_TOKENS)
        if stop == "thought":
            ids = (*ids[:-1], CLOSE)
        self._note(effect.tokens, ids)
        by_step = until in (Until.STEP, Until.ANSWER_STEP)
        unthought, empty = stop == "thought" and scene.unthought, by_step and next(self._empties)
        return Extension(Tokens.sampled(ids), stop, unthought, empty)

    def _score(self) -> float:
        # No two are the same, so that a score which was never given is found out.
        share = 0.5 + 0.4 / (2 + len(self.scores))
        threshold = self.scene.threshold
        passes = next(self._passes)
        value = threshold + share * (1 - threshold) if passes else threshold - share * (1 + threshold)
        self.scores.append(value)
        return value

    def _view(self, effect: Look) -> View:
        num_own = len(effect.trace.own()) - self._num_given
        left = self.scene.num_steps * STEP_TOKENS - num_own
        ids = self._fresh(effect.top_k)
        if ids and left == 1 and self.scene.stop == "thought":
            ids = (CLOSE, *ids[1:])
        for token_id in ids:
            self._note(effect.trace, (token_id,))
        hidden = () if effect.layer is None else (0.25, -0.25)
        return View(ids, tuple(-1.0 - rank for rank in range(len(ids))), 1.5, hidden, room=max(0, left))

    def _fresh(self, count: int) -> tuple[int, ...]:
        first = FIRST_SAMPLED + len(self.sampled)
        ids = tuple(range(first, first + count))
        self.sampled |= set(ids)
        return ids

    def _note(self, before: Tokens, ids: tuple[int, ...]) -> None:
        self.continuations.setdefault(before.own(), []).append(ids)


@dataclass(frozen=True, slots=True)
class Play:
    """Recording of a defense in a scene.

    Attributes:
        script: what it played against.
        effects: everything it asked for, in order.
        verdict: what it returned.
    """

    script: Script
    effects: tuple[Effect, ...]
    verdict: Verdict


def play(rule: Rule, scene: Scene) -> Play:
    """Play one scene to its end.

    Raises:
        AssertionError: it has none, or it fails.
    """
    return interleaved(rule, [scene])[0]


def interleaved(rule: Rule, together: Sequence[Scene]) -> list[Play]:
    """Play several scenes side by side, an effect of each in turn.

    Raises:
        AssertionError: one has no end, or one fails.
    """
    running = [_playing(rule, scene) for scene in together]
    done: dict[int, Play] = {}
    while len(done) < len(running):
        for index, each in enumerate(running):
            if index in done:
                continue
            try:
                next(each)
            except StopIteration as stop:
                done[index] = stop.value
    return [done[index] for index in range(len(running))]


def _playing(rule: Rule, scene: Scene) -> Generator[None, None, Play]:
    script, effects = Script(scene), list[Effect]()
    defense, answer = rule(scene.task), None
    while len(effects) < MAX_EFFECTS:
        try:
            effect = defense.send(answer)
        except StopIteration as stop:
            return Play(script, tuple(effects), stop.value)
        except DefenseError as error:
            raise AssertionError(f"{scene.name}: {error}") from error
        effects.append(effect)
        answer = script.answer(effect)
        yield
    raise AssertionError(f"in the scene {scene.name!r} it has asked for {MAX_EFFECTS} effects and goes on")
