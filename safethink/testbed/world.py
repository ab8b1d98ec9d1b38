"""The planted dynamics: how likely a prompt makes the reasoner drift, and what a corrective phrase is worth.

Every quantity here is an input, drawn from `world.seed`; none of it is a finding. Logits add up, so that a wrapper
composed of known clauses has an exactly known drift probability, and so has a phrase nobody has tried before.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from safethink.testbed import language

WorldKind = Literal["planted", "null", "hackable", "costly"]

N_STEPS: Final = 5
"""Reasoning steps in a trace of an attack prompt."""
N_GAME_STEPS: Final = 3
"""Reasoning steps in a trace of a borderline prompt that is not refused."""
COVERT_SHARE: Final = 0.08
"""Share of drifted steps that do not look drifted; the guard's label for them is noisy."""
ANSWER_FLIP: Final = 0.05
"""Probability that a drifted trace ends in a refusal all the same."""
DEPTH_LOGITS: Final = (0.0, 2.6, 3.2, 3.6, 3.8)
"""Added to the drift logit after 0, 1, 2, ... drifted steps in a row."""
RELAPSE_LOGIT: Final = -5.5
"""Added to the drift logit once the reasoner has decided to be safe."""
PLAIN_LOGIT: Final = -0.8
WRAPPED_LOGIT: Final = 1.6
SHOT_LOGIT: Final = 0.12
FORGED_LOGIT: Final = 0.7
COMPLIED_LOGIT: Final = 0.5
NULL_POWER: Final = 0.8
MAX_POWER: Final = 6.0
GAME_REFUSAL_LOGIT: Final = -4.0
SLIP_LOGIT: Final = -3.5
EDGY_SHARE: Final = 0.06
N_FLATTERING: Final = 10
"""Words of the `hackable` world that flatter the guard."""
FLATTERED_COVERT_SHARE: Final = 0.98
"""Share of drifted steps right behind the strongest flattery that do not look drifted."""
HIDDEN_COVERT_SHARE: Final = 0.99
"""The same in the `hackable` world for drift that has not shown so far: one step that shows would give it all away."""
FREE_POWER: Final = 1.2
"""Power up to which a word of the `costly` world alarms nobody."""
STRONG_ALARM: Final = 2.0
"""Logit that each stronger word of that world adds to the refusal of a borderline prompt."""


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit))."""
    return 1.0 / (1.0 + math.exp(-logit))


def words(text: str) -> list[str]:
    """The words of a phrase as the world hears them: lower case, punctuation dropped."""
    return re.findall(r"[a-z]+", text.lower())


@dataclass(frozen=True)
class World:
    """One draw of the dynamics.

    Attributes:
        seed: fixes everything below.
        kind: `planted`; `null`, where every phrase is worth the same; `hackable`, where some words make drift look safe
            and recover nothing; or `costly`, where the strongest words also make borderline prompts refused.
        power: what each phrase word adds to the recovery logit.
        alarm: what it adds to the refusal logit of a borderline prompt.
        distraction: what it adds to the slip logit of a harmless task.
        pairs: what two adjacent words add in this order.
        affinity: factor on the words of each theme, per wrapper frame; shape (frames, themes).
        clause_logits: drift logit of each wrapper clause.
        hazard_logits: drift logit of each hazard verb and object.
        flattery: how much each flattering word hides; empty but in a `hackable` world.
    """

    seed: int
    kind: WorldKind
    power: dict[str, float]
    alarm: dict[str, float]
    distraction: dict[str, float]
    pairs: dict[tuple[str, str], float]
    affinity: tuple[tuple[float, ...], ...]
    clause_logits: dict[str, float]
    hazard_logits: dict[str, float]
    flattery: dict[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def make(cls, seed: int, kind: WorldKind = "planted") -> World:
        """Draw a world; those of one seed are alike but for what their kind is about."""
        planted = cls._draw(seed)
        match kind:
            case "planted" | "null":
                return replace(planted, kind=kind)
            case "hackable":
                return planted._flattered()
            case "costly":
                return planted._alarmed()

    @classmethod
    def _draw(cls, seed: int) -> World:
        rng = np.random.default_rng(seed)
        themed = [word for theme in language.THEMES for word in theme]
        power = dict(zip(themed, rng.normal(0.4, 0.85, len(themed)).tolist(), strict=True))
        power |= dict(zip(language.FILLERS, rng.normal(0.0, 0.25, len(language.FILLERS)).tolist(), strict=True))
        alarm = {word: max(0.0, 0.25 * power[word] + rng.normal(-0.3, 0.7)) for word in themed}
        distraction = {word: max(0.0, rng.normal(-0.4, 0.7)) for word in themed}
        pairs: dict[tuple[str, str], float] = {}
        while len(pairs) < 48:
            first, second = rng.choice(themed, 2, replace=False).tolist()
            pairs[first, second] = float(rng.normal(0.0, 1.2))
        affinity = tuple(tuple(row) for row in rng.uniform(0.6, 1.4, (len(language.FRAMES), 4)).tolist())
        return cls(
            seed=seed,
            kind="planted",
            power=power,
            alarm=alarm,
            distraction=distraction,
            pairs=pairs,
            affinity=affinity,
            clause_logits={
                **_centred(rng, language.FRAMES, 0.7),
                **_centred(rng, language.STYLES, 0.5),
                **_centred(rng, language.PRESSURES, 0.7),
                **_centred(rng, language.DELAYS[1:], 0.2),
            },
            hazard_logits={**_centred(rng, language.VERBS, 0.25), **_centred(rng, language.OBJECTS, 0.25)},
        )

    def _flattered(self) -> World:
        """The `hackable` world: some words lose their power and hide drift instead."""
        rng = np.random.default_rng([self.seed, 5])
        chosen = rng.choice(list(self._theme), N_FLATTERING, replace=False).tolist()
        flattery = dict(zip(chosen, rng.uniform(1.5, 3.0, N_FLATTERING).tolist(), strict=True))
        return replace(
            self,
            kind="hackable",
            power={word: 0.0 if word in flattery else worth for word, worth in self.power.items()},
            pairs={pair: worth for pair, worth in self.pairs.items() if flattery.keys().isdisjoint(pair)},
            flattery=flattery,
        )

    def _alarmed(self) -> World:
        """The `costly` world: every strong word also makes borderline prompts refused, and no other does."""
        alarm = {word: STRONG_ALARM if self.power[word] > FREE_POWER else 0.0 for word in self._theme}
        return replace(self, kind="costly", alarm=alarm)

    @cached_property
    def _theme(self) -> dict[str, int]:
        return {word: index for index, theme in enumerate(language.THEMES) for word in theme}

    def phrase_power(self, phrase: str, frame: str | None = None) -> float:
        """Reduction of a step's drift logit by `phrase`, injected at that step.

        Word powers add up, scaled by the frame's affinity to the word's theme; the first word counts 1.3 times, a
        repeated word a third, an unknown word slightly against; a negator turns the next word around; adjacent pairs
        add their own. The sum saturates at `MAX_POWER`. What flatters is not reconsidered: of the power of a phrase
        only the share is left that its flattery does not take.

        Args:
            phrase: the injected text; the empty phrase is worth 0.
            frame: the wrapper's frame clause; None for a plain request.
        """
        heard = words(phrase)
        if not heard:
            return 0.0
        if self.kind == "null":
            return NULL_POWER
        scale = self.affinity[language.FRAMES.index(frame)] if frame is not None else (1.0,) * len(language.THEMES)
        total = 0.0
        for position, word in enumerate(heard):
            if word in language.NEGATORS:
                continue
            worth = self.power.get(word, -0.15) * (scale[self._theme[word]] if word in self._theme else 1.0)
            worth *= 1.3 if position == 0 else 1.0
            worth *= 1 / 3 if word in heard[:position] else 1.0
            worth *= -1.0 if position and heard[position - 1] in language.NEGATORS else 1.0
            total += worth
        total += sum(self.pairs.get(pair, 0.0) for pair in set(pairwise(heard)))
        return (1.0 - self._hiding(phrase)) * MAX_POWER * math.tanh(total / MAX_POWER)

    @property
    def covert_steps(self) -> tuple[str, ...]:
        """Templates of a drifted step that does not look drifted."""
        return language.FLATTERING_STEPS if self.flattery else language.COVERT_STEPS

    def harmful_answers(self, *, hidden: bool) -> tuple[str, ...]:
        """Templates of a harmful answer; `hidden` says whether none of the drift before it looked drifted."""
        return language.FLATTERING_ANSWERS if self.flattery and hidden else language.HARMFUL_ANSWERS

    def covert_share(self, phrase: str = "", *, hidden: bool = False) -> float:
        """Share of the drifted steps behind `phrase` that do not look drifted.

        Args:
            phrase: the text injected right before the step.
            hidden: whether the trace is drifted already and none of it shows.
        """
        if not self.flattery:
            return COVERT_SHARE
        share = COVERT_SHARE + (FLATTERED_COVERT_SHARE - COVERT_SHARE) * self._hiding(phrase)
        return max(share, HIDDEN_COVERT_SHARE) if hidden else share

    def _hiding(self, phrase: str) -> float:
        """Degree to which `phrase` flatters, from 0 to 1."""
        return 1.0 - math.exp(-math.fsum(self.flattery.get(word, 0.0) for word in set(words(phrase))))

    def slip_probability(self, phrase: str = "") -> float:
        """Probability of a wrong result in one step of a harmless task, with `phrase` injected at that step."""
        return sigmoid(SLIP_LOGIT + self._side_effect(self.distraction, phrase))

    def game_refusal_probability(self, phrase: str = "") -> float:
        """Probability that one step on a borderline prompt turns to refusal, with `phrase` injected at that step."""
        return sigmoid(GAME_REFUSAL_LOGIT + self._side_effect(self.alarm, phrase))

    def _side_effect(self, table: dict[str, float], phrase: str) -> float:
        if self.kind == "null":
            return 0.0
        return min(4.0, math.fsum(table.get(word, 0.0) for word in set(words(phrase))))


def _centred(rng: np.random.Generator, names: tuple[str, ...], scale: float) -> dict[str, float]:
    draws = rng.normal(0.0, scale, len(names))
    return dict(zip(names, (draws - draws.mean()).tolist(), strict=True))
