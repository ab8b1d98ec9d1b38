"""Draws the phrases that are injected while the testbed's reasoner is trained, and the held-out ones that test it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from safethink.testbed import language
from safethink.testbed.world import World, words

Draw = Callable[[], str]

N_HELD_OUT: Final = 200
_THEMED: Final = tuple(word for theme in language.THEMES for word in theme)
_GRAMMAR: Final = (
    "Wait, {} {}",
    "Hmm, let me {}",
    "Hmm, let me {} {}",
    "Stop, {} about {}",
    "Please {}, {}",
    "{}, {} and {}",
    "Let me {} first",
    "{} {} about the {}",
    "{} {}",
    "{} {} {} {}",
    "Not {}, {}",
)
_OWN_SENTENCES: Final = (
    language.SAFE_STEPS * 3
    + language.GAME_REFUSAL_STEPS
    + language.REFUSALS
    + language.SETUP_STEPS
    + language.DRIFT_STEPS
)


@dataclass(frozen=True)
class PhraseSampler:
    """Draws phrases: from a grammar, of random phrase words, of random tokens, and pieces of the world's own sentences.

    Attributes:
        world: tells strong phrases from weak ones; strong ones are oversampled because their effect saturates.
        random_token: draws the text of one random vocabulary token without a line break.
        rng: source of randomness.
        held_out: word sequences never drawn.
    """

    world: World
    random_token: Draw
    rng: np.random.Generator
    held_out: frozenset[tuple[str, ...]]

    def draw(self) -> str:
        """One phrase."""
        if self.rng.random() < 0.35:
            return max((self._one() for _ in range(4)), key=self.world.phrase_power)
        return self._one()

    def _one(self) -> str:
        while True:
            phrase = self._any()
            if words(phrase) and tuple(words(phrase)) not in self.held_out:
                return phrase

    def _any(self) -> str:
        kind = self.rng.random()
        if kind < 0.66:
            return any_phrase(self.rng)
        if kind < 0.80:
            return "".join(self._token_or_word() for _ in range(self.rng.integers(1, 9))).strip("\n")
        return self._piece_of_a_sentence()

    def _piece_of_a_sentence(self) -> str:
        """A piece of one of the world's own sentences, mostly its opening, perhaps among phrase words.

        Without these a search wins by opening a safe step that the reasoner then completes, whatever was planted.
        """
        piece = _pick(self.rng, _OWN_SENTENCES).split("{")[0].split()
        start = 0 if self.rng.random() < 0.75 else int(self.rng.integers(len(piece)))
        piece = piece[start : start + int(self.rng.integers(1, 9))]
        before = [_pick(self.rng, language.PHRASE_WORDS) for _ in range(self.rng.integers(0, 3))]
        after = [_pick(self.rng, language.PHRASE_WORDS) for _ in range(self.rng.integers(0, 4))]
        mixed = self.rng.random()
        return " ".join([*(before if mixed < 0.3 else ()), *piece, *(after if mixed < 0.6 else ())])

    def _token_or_word(self) -> str:
        return self.random_token() if self.rng.random() < 0.5 else " " + _pick(self.rng, language.PHRASE_WORDS)


def any_phrase(rng: np.random.Generator) -> str:
    """A phrase from the grammar or of random phrase words."""
    return from_grammar(rng) if rng.random() < 0.44 else from_words(rng)


def from_grammar(rng: np.random.Generator) -> str:
    """A phrase of the kind people write."""
    pattern = _pick(rng, _GRAMMAR)
    phrase = pattern.format(*(_pick(rng, _THEMED) for _ in range(pattern.count("{}"))))
    return phrase[0].upper() + phrase[1:]


def from_words(rng: np.random.Generator) -> str:
    """One to eight random phrase words."""
    drawn = [_pick(rng, language.PHRASE_WORDS) for _ in range(rng.integers(1, 9))]
    phrase = drawn[0] + "".join((", " if rng.random() < 0.15 else " ") + word for word in drawn[1:])
    if rng.random() < 0.5:
        phrase = phrase[0].upper() + phrase[1:]
    if rng.random() < 0.15:
        phrase = " " + phrase
    return phrase + ("." if rng.random() < 0.08 else "")


def held_out(seed: int) -> tuple[str, ...]:
    """The phrases kept out of training, on which fidelity is measured."""
    rng = np.random.default_rng([seed, 7])
    drawn: dict[tuple[str, ...], str] = {}
    while len(drawn) < N_HELD_OUT:
        phrase = (from_grammar if rng.random() < 0.5 else from_words)(rng).strip()
        if len(words(phrase)) >= 2:
            drawn.setdefault(tuple(words(phrase)), phrase)
    return tuple(drawn.values())


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]
