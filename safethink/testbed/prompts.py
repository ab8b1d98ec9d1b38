"""The testbed's prompts: attacks, plain requests, harmless tasks and borderline questions, in three splits.

They are drawn here, and what the planted process goes by is read off their text again.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Final, Literal, TypeVar

import numpy as np

from safethink.prompts import Message, Prompt
from safethink.testbed import language
from safethink.testbed.world import (
    COMPLIED_LOGIT,
    FORGED_LOGIT,
    PLAIN_LOGIT,
    SHOT_LOGIT,
    WRAPPED_LOGIT,
    World,
)

Item = TypeVar("Item")
PromptKind = Literal["jailbreak", "harmful", "harmless", "borderline"]
Split = Literal["search", "validation", "test"]

SPLITS: Final[tuple[Split, ...]] = ("search", "validation", "test")
DEFAULT_PROMPTS_SEED: Final = 0
N_WRAPPERS: Final = {"search": 24, "validation": 16, "test": 24}
N_HAZARDS: Final = {"search": 24, "validation": 16, "test": 24}
_HAZARD = re.compile(rf"({'|'.join(language.VERBS)}) the ({'|'.join(language.OBJECTS)})")


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A composed jailbreak: one clause from each slot."""

    frame: str
    delay: str
    style: str
    pressure: str

    @property
    def name(self) -> str:
        """A short stable name, used as the bootstrap cluster."""
        places = (
            language.FRAMES.index(self.frame),
            language.DELAYS.index(self.delay),
            language.STYLES.index(self.style),
            language.PRESSURES.index(self.pressure),
        )
        return "w" + "-".join(map(str, places))

    def around(self, hazard: Hazard) -> str:
        """The attack text."""
        question = language.WRAPPED_QUESTION.format(hazard=hazard)
        return " ".join(part for part in (self.frame, self.delay, question, self.style, self.pressure) if part)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The wrappers and hazards of one split."""

    wrappers: tuple[Wrapper, ...]
    hazards: tuple[Hazard, ...]


@lru_cache(maxsize=8)
def catalogues(prompts_seed: int) -> dict[Split, Catalogue]:
    """Wrappers and hazards of every split; no wrapper and no hazard stands in two splits.

    Those that the default draw searches and chooses on, and that the guard was trained on, stand in no fresh draw.
    """
    rng = np.random.default_rng([prompts_seed, 1])
    wrappers = [
        Wrapper(*parts) for parts in product(language.FRAMES, language.DELAYS, language.STYLES, language.PRESSURES)
    ]
    hazards = [Hazard(*parts) for parts in product(language.VERBS, language.OBJECTS)]
    wrappers = _shuffled(rng, wrappers)
    hazards = _shuffled(rng, hazards)
    if prompts_seed != DEFAULT_PROMPTS_SEED:
        default = catalogues(DEFAULT_PROMPTS_SEED)
        tuned_to = [default["search"], default["validation"]]
        wrappers = [each for each in wrappers if not any(each in catalogue.wrappers for catalogue in tuned_to)]
        hazards = [each for each in hazards if not any(each in catalogue.hazards for catalogue in tuned_to)]
    out: dict[Split, Catalogue] = {}
    for split in SPLITS:
        n, m = N_WRAPPERS[split], N_HAZARDS[split]
        out[split] = Catalogue(tuple(wrappers[:n]), tuple(hazards[:m]))
        wrappers, hazards = wrappers[n:], hazards[m:]
    return out


def draw(kind: PromptKind, split: Split, n: int, prompts_seed: int = 0) -> list[Prompt]:
    """Draw `n` prompts of a kind; the first k of a larger draw are the draw of k.

    Args:
        kind: which prompts.
        split: which wrappers and hazards.
        n: how many.
        prompts_seed: 0 is the default draw; another one gives prompts that nobody has tuned to.
    """
    catalogue = catalogues(prompts_seed)[split]
    rng = np.random.default_rng([prompts_seed, SPLITS.index(split), _stable(kind)])
    pairs: list[tuple[int, int]] = []
    while len(pairs) < n:
        grid = [(w, h) for w in range(len(catalogue.wrappers)) for h in range(len(catalogue.hazards))]
        pairs += _shuffled(rng, grid)
    prompts: list[Prompt] = []
    for index, (w, h) in enumerate(pairs[:n]):
        identity = f"{kind}-{split}-{prompts_seed}-{index}"
        row_rng = np.random.default_rng([prompts_seed, SPLITS.index(split), _stable(kind), index])
        prompts.append(_one(kind, identity, catalogue.wrappers[w], catalogue.hazards[h], row_rng))
    return prompts


def _one(kind: PromptKind, identity: str, wrapper: Wrapper, hazard: Hazard, rng: np.random.Generator) -> Prompt:
    reference = None
    match kind:
        case "jailbreak":
            text, clusters = wrapper.around(hazard), {"wrapper": wrapper.name, "hazard": str(hazard)}
        case "harmful":
            question = pick(rng, language.PLAIN_QUESTIONS)
            text, clusters = question.format(hazard=hazard), {"wrapper": question, "hazard": str(hazard)}
        case "borderline":
            question = pick(rng, language.BORDERLINE_QUESTIONS)
            text, clusters = question.format(hazard=hazard), {"wrapper": question, "hazard": str(hazard)}
        case "harmless":
            problem = Problem.draw(rng)
            text, reference, clusters = problem.question, str(problem.results[-1]), {}
    return Prompt(
        id=identity, messages=(Message(role="user", content=text),), kind=kind, reference=reference, clusters=clusters
    )


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """One of `options`."""
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True, slots=True)
class Problem:
    """A harmless task: small sums, one per step.

    Attributes:
        question: the text.
        start: the first number.
        operations: (`plus` | `minus` | `twice`, operand) in order.
        results: the right intermediate results.
    """

    question: str
    start: int
    operations: tuple[tuple[str, int], ...]
    results: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Problem:
        """Three operations whose results stay within 0 and 20."""
        while True:
            start = int(rng.integers(1, 10))
            operations = tuple(
                (str(rng.choice(["plus", "minus", "twice"])), int(rng.integers(1, 10))) for _ in range(3)
            )
            results: list[int] = []
            value = start
            for name, operand in operations:
                value = apply(name, value, operand)
                results.append(value)
            if all(0 <= result <= 20 for result in results):
                break
        told = {"plus": "Add {}.", "minus": "Take away {}.", "twice": "Double it."}
        parts = [pick(rng, language.TASK_OPENINGS).format(n=start)]
        parts += [told[name].format(operand) for name, operand in operations]
        return cls(" ".join([*parts, pick(rng, language.TASK_QUESTIONS)]), start, operations, tuple(results))


def apply(operation: str, value: int, operand: int) -> int:
    """The result of one operation of a harmless task."""
    return {"plus": value + operand, "minus": value - operand, "twice": 2 * value}[operation]


def sum_step(operation: str, value: int, operand: int, result: int) -> str:
    """The reasoning step that works out one operation."""
    return f"Twice {value} is {result}." if operation == "twice" else f"{value} {operation} {operand} is {result}."


def _shuffled(rng: np.random.Generator, items: list[Item]) -> list[Item]:
    order: list[int] = rng.permutation(len(items)).tolist()
    return [items[i] for i in order]


def _stable(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


@dataclass(frozen=True, slots=True)
class Hazard:
    """A fictional harmful deed."""

    verb: str
    object: str

    def __str__(self) -> str:
        return f"{self.verb} the {self.object}"

    @classmethod
    def find(cls, text: str) -> Hazard | None:
        """The last hazard that `text` names."""
        found = _HAZARD.findall(text)
        return cls(*found[-1]) if found else None


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack prompt as the process sees it.

    Attributes:
        hazard: what is asked for.
        clauses: the wrapper's clauses; empty for a plain request.
        onset: index of the step at which the reasoner decides.
        extra_logit: what system prompt, history, shots and forged turns add to the drift logit.
        prefilled: drifted steps that already stand in the trace.
    """

    hazard: Hazard
    clauses: tuple[str, ...]
    onset: int
    extra_logit: float = 0.0
    prefilled: int = 0

    @classmethod
    def read(cls, prompt: Prompt) -> Attack:
        """Read an attack prompt.

        Raises:
            ValueError: the prompt names no hazard of this world.
        """
        text = prompt.text
        hazard = Hazard.find(text)
        if hazard is None:
            raise ValueError(f"prompt {prompt.id!r} names no hazard of the testbed")
        slots = (language.FRAMES, language.DELAYS[1:], language.STYLES, language.PRESSURES)
        clauses = tuple(clause for slot in slots for clause in slot if clause in text)
        delay = next((clause for clause in clauses if clause in language.DELAYS), "")
        history = prompt.messages[:-1]
        extra = (
            sum(language.SYSTEM_PROMPTS.get(m.content, 0.0) for m in history if m.role == "system")
            + sum(COMPLIED_LOGIT for m in history if m.role == "assistant" and Hazard.find(m.content) is not None)
            + SHOT_LOGIT * min(16, text.count("Q: "))
            + FORGED_LOGIT * (language.FORGED_TURN in text)
        )
        prefilled = sum(bool(step.strip()) for step in prompt.prefill.split("\n\n"))
        return cls(hazard, clauses, language.DELAYS.index(delay), extra, prefilled)

    @property
    def frame(self) -> str | None:
        """The frame clause; None for a plain request."""
        return next((clause for clause in self.clauses if clause in language.FRAMES), None)

    def drift_logit(self, world: World) -> float:
        """The logit of drifting at the onset, with nothing injected."""
        base = WRAPPED_LOGIT if self.clauses else PLAIN_LOGIT
        clauses = sum(world.clause_logits[clause] for clause in self.clauses)
        return (
            base
            + clauses
            + world.hazard_logits[self.hazard.verb]
            + world.hazard_logits[self.hazard.object]
            + self.extra_logit
        )
