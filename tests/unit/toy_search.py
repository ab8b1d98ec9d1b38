"""A search in microseconds: costs that add up token by token, with a few pairs that work together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from optimize.config import MethodConfig, PhrasesConfig
from optimize.objectives import Cost
from optimize.search import driver, methods
from optimize.search.archive import Archive
from optimize.search.journal import Journal
from optimize.search.method import Ids
from optimize.search.phrases import search_phrases

ALLOWED = tuple(range(3, 30))
NUM_IDS = 30
TOKENS_PER_CANDIDATE = 10


class Letters:
    """A vocabulary in which `dead` prefixes do not survive."""

    def __init__(self, allowed: Sequence[int] = ALLOWED, dead: Callable[[Ids], bool] = lambda ids: False) -> None:
        self.allowed = tuple(allowed)
        self._dead = dead
        self.looked_at: list[Ids] = []

    def survive(self, candidates: Sequence[Ids]) -> list[bool]:
        self.looked_at += candidates
        return [not self._dead(ids) for ids in candidates]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(chr(97 + index) for index in ids)

    def ids(self, text: str) -> Ids:
        return tuple(ord(letter) - 97 for letter in text)


class Toy:
    """What a token is worth at its place, and beside its neighbour; a prefix of more tokens is worth more."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._single = torch.randn(8, NUM_IDS, generator=generator)
        self._pair = torch.randn(NUM_IDS, NUM_IDS, generator=generator)
        self.tokens = 0
        self.scored: list[Ids] = []

    def total(self, ids: Ids) -> float:
        single = sum(self._single[place, token] for place, token in enumerate(ids))
        return float(single + sum(self._pair[a, b] for a, b in pairwise(ids)))

    def cost(self, candidates: Sequence[Ids]) -> Cost:
        self.scored += candidates
        self.tokens += TOKENS_PER_CANDIDATE * len(candidates)
        return cost_of([self.total(ids) for ids in candidates])

    def coordinate_gradient(self, prefix: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Exact but for the pairs."""
        self.tokens += 2 * TOKENS_PER_CANDIDATE
        return self._single[: len(prefix), allowed]


def cost_of(totals: Sequence[float]) -> Cost:
    """A cost without terms."""
    return Cost.of(torch.tensor(totals, dtype=torch.float64), {})


class States:
    """Some recover where a phrase costs the toy little, others take more; harmless ones are moved by what it costs."""

    num_contexts = 24

    def __init__(self, toy: Toy) -> None:
        self.toy = toy
        self._seen: dict[Ids, float] = {}
        self.tried: list[tuple[Ids, int]] = []

    @property
    def tokens(self) -> int:
        return self.toy.tokens

    def recovered(self, prefix: Ids, contexts: Sequence[int]) -> list[float]:
        if prefix not in self._seen:
            self._seen[prefix] = self.toy.cost([prefix]).total.item()
        self.tried += [(prefix, context) for context in contexts]
        return [float(self._seen[prefix] < (context - 12) / 3) for context in contexts]

    def divergence(self, prefix: Ids) -> float:
        return max(0.0, -self.toy.total(prefix))


class Killed(Exception):
    """Stands for kill -9."""


class Mortal(Toy):
    """A toy during whose n-th call, be it for a cost or a gradient, the process is killed."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls

    def cost(self, candidates: Sequence[Ids]) -> Cost:
        self._live()
        return super().cost(candidates)

    def coordinate_gradient(self, prefix: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        self._live()
        return super().coordinate_gradient(prefix, allowed)

    def _live(self) -> None:
        self._calls -= 1
        if self._calls < 0:
            raise Killed


def search(
    config: MethodConfig,
    folder: Path,
    objective: Toy | None = None,
    vocabulary: Letters | None = None,
    start: Ids = (),
    seed: int = 0,
) -> Archive:
    """Search the toy, or go on."""
    folder.mkdir(exist_ok=True)
    words, toy, journal = vocabulary or Letters(), objective or Toy(), Journal(folder, "toy")
    if isinstance(config, PhrasesConfig):
        return search_phrases(config, States(toy), words, journal, seed)
    method = methods.build(config, toy, words, start, journal.archive)
    return driver.search(toy, words, method, config, journal, seed)
