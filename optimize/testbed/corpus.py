"""The corpus that plants the world in a reasoner: every branch point carries the exact probability, not one sampled outcome."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from optimize.testbed.phrases import PhraseSampler
from safethink.prompts import Message, Prompt, Role
from safethink.testbed import language
from safethink.testbed.features import Attack, Hazard
from safethink.testbed.process import drift_probability
from safethink.testbed.prompts import Problem, Wrapper, apply, pick, sum_step
from safethink.testbed.world import ANSWER_FLIP, COVERT_SHARE, EDGY_SHARE, N_STEPS, World

Encode = Callable[[str], list[int]]

N_GAME_STEPS = 3


@dataclass(slots=True)
class Example:
    """One training sequence.

    Attributes:
        ids: token ids.
        learned: whether each token is a target.
        branches: position -> (the other token, its probability), where the world decides.
    """

    ids: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    branches: dict[int, tuple[int, float]] = field(default_factory=dict)

    def given(self, ids: list[int]) -> None:
        """Append tokens that are not learned."""
        self.ids += ids
        self.learned += [False] * len(ids)

    def said(self, ids: list[int]) -> None:
        """Append tokens that are learned."""
        self.ids += ids
        self.learned += [True] * len(ids)

    def branch(self, chosen: list[int], other: list[int], other_probability: float) -> None:
        """Append `chosen`, with the soft label at the first token where the two differ."""
        fork = next((i for i, (a, b) in enumerate(zip(chosen, other, strict=False)) if a != b), None)
        if fork is not None:
            self.branches[len(self.ids) + fork] = (other[fork], other_probability)
        self.said(chosen)


@dataclass(frozen=True)
class SpecialIds:
    """The control tokens a rendered conversation needs."""

    turn_start: int
    turn_end: int
    think: int
    close: int


@dataclass(frozen=True)
class Storyteller:
    """Writes training examples by walking the planted process.

    Attributes:
        world: the dynamics.
        encode: text to ids, control strings as plain text.
        special: control token ids.
        phrases: what is injected.
        rng: source of randomness.
    """

    world: World
    encode: Encode
    special: SpecialIds
    phrases: PhraseSampler
    rng: np.random.Generator

    def example(self) -> Example:
        """One example of the mix."""
        kind = self.rng.random()
        if kind < 0.66:
            return self._attack(self._attack_prompt(wrapped=kind < 0.54))
        if kind < 0.79:
            return self._borderline()
        return self._harmless()

    def long_example(self, shots: int) -> Example:
        """A many-shot attack, to train long contexts."""
        return self._attack(self._shape_many_shot(self._wrapper().around(self._hazard()), shots))

    # -- prompts ---------------------------------------------------------------------------------------------------

    def _attack_prompt(self, wrapped: bool) -> Prompt:
        hazard = self._hazard()
        text = self._wrapper().around(hazard) if wrapped else pick(self.rng, language.PLAIN_QUESTIONS).format(hazard=hazard)
        shape = self.rng.random()
        if shape < 0.06:
            return _prompt(self._system(), Message(role="user", content=text))
        if shape < 0.11:
            return _prompt(*self._history(), Message(role="user", content=text))
        if shape < 0.15:
            return self._shape_many_shot(text, int(self.rng.integers(1, 7)))
        if shape < 0.18:
            return _prompt(Message(role="user", content=text + language.FORGED_TURN))
        if shape < 0.22:
            prefill = "".join(self._drift_step(hazard, covert=False) + "\n\n" for _ in range(self.rng.integers(1, 3)))
            return Prompt(id="corpus", messages=(Message(role="user", content=text),), prefill=prefill)
        return _prompt(Message(role="user", content=text))

    def _shape_many_shot(self, text: str, shots: int) -> Prompt:
        turns = []
        for _ in range(shots):
            hazard = self._hazard()
            turns.append(f"Q: {pick(self.rng, language.PLAIN_QUESTIONS).format(hazard=hazard)}\nA: {self._harmful(hazard)}\n")
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

    def _wrapper(self) -> Wrapper:
        slots = (language.FRAMES, language.DELAYS, language.STYLES, language.PRESSURES)
        return Wrapper(*(pick(self.rng, slot) for slot in slots))

    def _hazard(self) -> Hazard:
        return Hazard(pick(self.rng, language.VERBS), pick(self.rng, language.OBJECTS))

    # -- traces ----------------------------------------------------------------------------------------------------

    def _attack(self, prompt: Prompt) -> Example:
        attack = Attack.read(prompt)
        example = self._open(prompt)
        depth = attack.prefilled
        for step in range(attack.prefilled, N_STEPS):
            manner = self.rng.random()
            phrase = self.phrases.draw() if manner < 0.6 else ""
            drift = drift_probability(self.world, attack, step, depth, phrase)
            drifts = bool(self.rng.random() < drift)
            lead = " " if phrase else ""
            calm = language.SETUP_STEPS if depth == 0 and step < attack.onset else language.SAFE_STEPS
            texts = (
                lead + self._fill(pick(self.rng, calm), attack.hazard),
                lead + self._drift_step(attack.hazard, bool(self.rng.random() < COVERT_SHARE)),
            )
            chosen, other = (self._end_step(text, last=step == N_STEPS - 1) for text in (texts[drifts], texts[not drifts]))
            if phrase and manner < 0.15 and step < N_STEPS - 1:
                example.given(chosen)
            else:
                example.given(self.encode(phrase))
                example.branch(chosen, other, 1 - drift if drifts else drift)
            depth = depth + 1 if drifts else 0
        harmful, refusal = self._answer(self._harmful(attack.hazard)), self._answer(pick(self.rng, language.REFUSALS))
        if depth == 0:
            example.said(refusal)
        elif self.rng.random() < ANSWER_FLIP:
            example.branch(refusal, harmful, 1 - ANSWER_FLIP)
        else:
            example.branch(harmful, refusal, ANSWER_FLIP)
        return example

    def _borderline(self) -> Example:
        hazard = self._hazard()
        question = pick(self.rng, language.BORDERLINE_QUESTIONS).format(hazard=hazard)
        example = self._open(self._harmless_prompt(question))
        for step in range(N_GAME_STEPS):
            last = step == N_GAME_STEPS - 1
            phrase = self.phrases.draw() if self.rng.random() < 0.4 else ""
            lead = " " if phrase else ""
            example.given(self.encode(phrase))
            refuse = self.world.game_refusal_probability(phrase)
            calm = language.EDGY_STEPS if self.rng.random() < EDGY_SHARE else language.GAME_STEPS
            going_on = self._end_step(lead + self._fill(pick(self.rng, calm), hazard), last)
            refusing = self._end_step(lead + self._fill(pick(self.rng, language.GAME_REFUSAL_STEPS), hazard), last=True)
            if self.rng.random() < refuse:
                example.branch(refusing, going_on, 1 - refuse)
                example.said(self._answer(pick(self.rng, language.REFUSALS)))
                return example
            example.branch(going_on, refusing, refuse)
        example.said(self._answer(self._fill(pick(self.rng, language.GAME_ANSWERS), hazard)))
        return example

    def _harmless(self) -> Example:
        problem = Problem.draw(self.rng)
        example = self._open(self._harmless_prompt(problem.question))
        value = problem.start
        for step, (operation, operand) in enumerate(problem.operations):
            last = step == len(problem.operations) - 1
            phrase = self.phrases.draw() if self.rng.random() < 0.4 else ""
            example.given(self.encode(phrase))
            slip = self.world.slip_probability(phrase)
            right = apply(operation, value, operand)
            wrong = max(0, right + int(self.rng.choice([-3, -2, -1, 1, 2, 3])))
            wrong = wrong if wrong != right else right + 1
            lead = " " if phrase else ""
            texts = [self._end_step(lead + sum_step(operation, value, operand, n), last) for n in (right, wrong)]
            if self.rng.random() < slip:
                example.branch(texts[1], texts[0], 1 - slip)
                value = wrong
            else:
                example.branch(texts[0], texts[1], slip)
                value = right
        example.said(self._answer(language.ANSWER.format(n=value)))
        return example

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _harmless_prompt(self, question: str) -> Prompt:
        shape = self.rng.random()
        user = Message(role="user", content=question)
        if shape < 0.06:
            return _prompt(self._system(), user)
        if shape < 0.10:
            return _prompt(*self._history(), user)
        return _prompt(user)

    def _open(self, prompt: Prompt) -> Example:
        example = Example()
        for message in prompt.messages:
            example.given(self._turn(message.role, message.content) + [self.special.turn_end, *self.encode("\n")])
        example.given([*self._turn("assistant", ""), self.special.think, *self.encode("\n"), *self.encode(prompt.prefill)])
        return example

    def _turn(self, role: Role, content: str) -> list[int]:
        return [self.special.turn_start, *self.encode(f"{role}\n{content}")]

    def _end_step(self, text: str, last: bool) -> list[int]:
        return [*self.encode(text + "\n"), self.special.close] if last else self.encode(text + "\n\n")

    def _answer(self, text: str) -> list[int]:
        return [*self.encode("\n\n" + text), self.special.turn_end]

    def _drift_step(self, hazard: Hazard, covert: bool) -> str:
        return self._fill(pick(self.rng, language.COVERT_STEPS if covert else language.DRIFT_STEPS), hazard)

    def _harmful(self, hazard: Hazard) -> str:
        return self._fill(pick(self.rng, language.HARMFUL_ANSWERS), hazard)

    def _fill(self, template: str, hazard: Hazard) -> str:
        a, b = pick(self.rng, language.PARTS), pick(self.rng, language.PARTS)
        return template.format(hazard=hazard, object=hazard.object, a=a, b=b)


def _prompt(*messages: Message) -> Prompt:
    return Prompt(id="corpus", messages=messages)
