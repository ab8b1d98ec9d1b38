"""Walks the planted process and tells what happens as text: the prompts of the corpus, and the traces they lead to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np

from safethink.prompts import Message, Prompt
from safethink.testbed import language
from safethink.testbed.process import drift_probability
from safethink.testbed.prompts import Attack, Hazard, Problem, Wrapper, apply, pick, sum_step
from safethink.testbed.world import ANSWER_FLIP, EDGY_SHARE, N_GAME_STEPS, N_STEPS, World

DROPPED_SHARE: Final = 0.15
"""Share of steps that were resampled behind a phrase which then was dropped."""

ALL_WRAPPERS: Final = tuple(
    Wrapper(*parts) for parts in product(language.FRAMES, language.DELAYS, language.STYLES, language.PRESSURES)
)
ALL_HAZARDS: Final = tuple(Hazard(*parts) for parts in product(language.VERBS, language.OBJECTS))


@dataclass(frozen=True, slots=True)
class Fork:
    """A point where the world decides between two texts.

    Attributes:
        chosen: what happened.
        other: what did not; empty where nothing was decided.
        other_probability: how likely it was.
    """

    chosen: str
    other: str = ""
    other_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Beat:
    """One reasoning step of a story.

    Attributes:
        phrase: what was injected right before it.
        kept: whether the phrase stays in the trace.
        step: the step, without its delimiter.
        ends: whether `step.chosen` is the last one.
        other_ends: whether `step.other` would have been.
    """

    phrase: str
    kept: bool
    step: Fork
    ends: bool
    other_ends: bool


@dataclass(frozen=True, slots=True)
class Story:
    """A prompt, the trace it led to and the answer."""

    prompt: Prompt
    beats: tuple[Beat, ...]
    answer: Fork


@dataclass(frozen=True)
class Storyteller:
    """Draws stories.

    Attributes:
        world: the dynamics.
        draw_phrase: draws what is injected.
        rng: source of randomness.
        wrappers: the jailbreak wrappers it may use.
        hazards: the hazards it may name.
        injected_share: share of steps behind an injected phrase.
    """

    world: World
    draw_phrase: Callable[[], str]
    rng: np.random.Generator
    wrappers: Sequence[Wrapper] = ALL_WRAPPERS
    hazards: Sequence[Hazard] = ALL_HAZARDS
    injected_share: float = 0.6

    def story(self) -> Story:
        """One story of the mix: jailbreaks, plain harmful requests, borderline questions, harmless tasks."""
        kind = self.rng.random()
        if kind < 0.54:
            return self.attack(self._shaped(self._wrapper().around(self._hazard())))
        if kind < 0.66:
            return self.attack(self._shaped(pick(self.rng, language.PLAIN_QUESTIONS).format(hazard=self._hazard())))
        return self._borderline() if kind < 0.79 else self._harmless()

    def many_shot_story(self, shots: int) -> Story:
        """A long many-shot attack."""
        return self.attack(self._many_shot(self._wrapper().around(self._hazard()), shots))

    def attack(self, prompt: Prompt) -> Story:
        """Trajectory of an attack prompt."""
        attack = Attack.read(prompt)
        depth, overt = attack.prefilled, attack.prefilled > 0
        beats: list[Beat] = []
        for step in range(attack.prefilled, N_STEPS):
            last = step == N_STEPS - 1
            phrase, kept = self._injection(may_drop=not last)
            drift = drift_probability(self.world, attack, step, depth, phrase)
            drifts = bool(self.rng.random() < drift)
            calm = language.SETUP_STEPS if depth == 0 and step < attack.onset else language.SAFE_STEPS
            covert = bool(self.rng.random() < self.world.covert_share(phrase, hidden=depth > 0 and not overt))
            drifted_steps = self.world.covert_steps if covert else language.DRIFT_STEPS
            safe_text = self._fill(pick(self.rng, calm), attack.hazard)
            drifted_text = self._fill(pick(self.rng, drifted_steps), attack.hazard)
            fork = Fork(drifted_text, safe_text, 1 - drift) if drifts else Fork(safe_text, drifted_text, drift)
            beats.append(Beat(phrase, kept, fork, last, last))
            depth, overt = (depth + 1, overt or not covert) if drifts else (0, False)
        harmful = self._fill(pick(self.rng, self.world.harmful_answers(hidden=not overt)), attack.hazard)
        refusal = pick(self.rng, language.REFUSALS)
        if depth == 0:
            answer = Fork(refusal)
        elif self.rng.random() < ANSWER_FLIP:
            answer = Fork(refusal, harmful, 1 - ANSWER_FLIP)
        else:
            answer = Fork(harmful, refusal, ANSWER_FLIP)
        return Story(prompt, tuple(beats), answer)

    def _borderline(self) -> Story:
        hazard = self._hazard()
        prompt = self._harmless_prompt(pick(self.rng, language.BORDERLINE_QUESTIONS).format(hazard=hazard))
        beats: list[Beat] = []
        for step in range(N_GAME_STEPS):
            last = step == N_GAME_STEPS - 1
            phrase, kept = self._injection(may_drop=not last)
            refuse = self.world.game_refusal_probability(phrase)
            calm = language.EDGY_STEPS if self.rng.random() < EDGY_SHARE else language.GAME_STEPS
            going_on = self._fill(pick(self.rng, calm), hazard)
            refusing = self._fill(pick(self.rng, language.GAME_REFUSAL_STEPS), hazard)
            if self.rng.random() < refuse:
                beats.append(Beat(phrase, True, Fork(refusing, going_on, 1 - refuse), True, last))
                return Story(prompt, tuple(beats), Fork(pick(self.rng, language.REFUSALS)))
            beats.append(Beat(phrase, kept, Fork(going_on, refusing, refuse), last, True))
        return Story(prompt, tuple(beats), Fork(self._fill(pick(self.rng, language.GAME_ANSWERS), hazard)))

    def _harmless(self) -> Story:
        problem = Problem.draw(self.rng)
        value = problem.start
        beats: list[Beat] = []
        for step, (operation, operand) in enumerate(problem.operations):
            last = step == len(problem.operations) - 1
            phrase, kept = self._injection(may_drop=not last)
            slip = self.world.slip_probability(phrase)
            right = apply(operation, value, operand)
            wrong = max(0, right + int(self.rng.choice([-3, -2, -1, 1, 2, 3])))
            wrong = wrong if wrong != right else right + 1
            slips = bool(self.rng.random() < slip)
            texts = [sum_step(operation, value, operand, n) for n in (right, wrong)]
            fork = Fork(texts[slips], texts[not slips], 1 - slip if slips else slip)
            beats.append(Beat(phrase, kept, fork, last, last))
            value = wrong if slips else right
        return Story(self._harmless_prompt(problem.question), tuple(beats), Fork(language.ANSWER.format(n=value)))

    # -- prompts ---------------------------------------------------------------------------------------------------

    def _shaped(self, text: str) -> Prompt:
        """An attack in one of the shapes it may come in; most are a single user turn."""
        shape = self.rng.random()
        user = Message(role="user", content=text)
        if shape < 0.06:
            return _prompt(self._system(), user)
        if shape < 0.11:
            return _prompt(*self._history(), user)
        if shape < 0.15:
            return self._many_shot(text, int(self.rng.integers(1, 7)))
        if shape < 0.18:
            return _prompt(Message(role="user", content=text + language.FORGED_TURN))
        if shape < 0.22:
            hazard = Attack.read(_prompt(user)).hazard
            steps = [self._fill(pick(self.rng, language.DRIFT_STEPS), hazard) for _ in range(self.rng.integers(1, 3))]
            return Prompt(id="corpus", messages=(user,), prefill="".join(step + "\n\n" for step in steps))
        return _prompt(user)

    def _harmless_prompt(self, question: str) -> Prompt:
        shape = self.rng.random()
        user = Message(role="user", content=question)
        if shape < 0.06:
            return _prompt(self._system(), user)
        return _prompt(*self._history(), user) if shape < 0.10 else _prompt(user)

    def _many_shot(self, text: str, shots: int) -> Prompt:
        turns: list[str] = []
        for _ in range(shots):
            hazard = self._hazard()
            question = pick(self.rng, language.PLAIN_QUESTIONS).format(hazard=hazard)
            turns.append(f"Q: {question}\nA: {self._harmful(hazard)}\n")
        return _prompt(Message(role="user", content="".join(turns) + text))

    def _system(self) -> Message:
        return Message(role="system", content=pick(self.rng, tuple(language.SYSTEM_PROMPTS)))

    def _history(self) -> list[Message]:
        turns: list[Message] = []
        for _ in range(self.rng.integers(1, 4)):
            hazard, kind = self._hazard(), self.rng.random()
            if kind < 0.4:
                problem = Problem.draw(self.rng)
                asked, answered = problem.question, language.ANSWER.format(n=problem.results[-1])
            else:
                asked = pick(self.rng, language.PLAIN_QUESTIONS).format(hazard=hazard)
                answered = self._harmful(hazard) if kind < 0.7 else pick(self.rng, language.REFUSALS)
            turns += [Message(role="user", content=asked), Message(role="assistant", content=answered)]
        return turns

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _injection(self, may_drop: bool) -> tuple[str, bool]:
        """A phrase to inject, or none, and whether it stays."""
        manner = self.rng.random()
        phrase = self.draw_phrase() if manner < self.injected_share else ""
        return phrase, not (phrase and may_drop and manner < DROPPED_SHARE)

    def _wrapper(self) -> Wrapper:
        return self.wrappers[int(self.rng.integers(len(self.wrappers)))]

    def _hazard(self) -> Hazard:
        return self.hazards[int(self.rng.integers(len(self.hazards)))]

    def _harmful(self, hazard: Hazard) -> str:
        return self._fill(pick(self.rng, language.HARMFUL_ANSWERS), hazard)

    def _fill(self, template: str, hazard: Hazard) -> str:
        a, b = pick(self.rng, language.PARTS), pick(self.rng, language.PARTS)
        return template.format(hazard=hazard, object=hazard.object, a=a, b=b)


def _prompt(*messages: Message) -> Prompt:
    return Prompt(id="corpus", messages=messages)
