"""A search in microseconds: costs that add up token by token, with pairs that work together.

An embedding is a unit vector, so that the costs of rows are linear in each of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch

from optimize.config import MethodConfig, PhrasesConfig
from optimize.objectives import Cost
from optimize.search import driver, methods
from optimize.search.journal import Journal
from optimize.search.method import Archive, Ids
from optimize.search.phrases import search_phrases
from optimize.search.writer import WrittenList

ALLOWED = tuple(range(3, 30))
NUM_IDS = 30
TOKENS_PER_CANDIDATE = 10
NLL_WEIGHT = 0.1


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

    @property
    def singles(self) -> torch.Tensor:
        return self._single[:, list(ALLOWED)]

    @property
    def pairs(self) -> torch.Tensor:
        return self._pair[list(ALLOWED)][:, list(ALLOWED)]

    def total(self, ids: Ids) -> float:
        single = sum(self._single[place, token] for place, token in enumerate(ids))
        return float(single + sum(self._pair[a, b] for a, b in pairwise(ids)))

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        self.scored += candidates
        self.tokens += TOKENS_PER_CANDIDATE * len(candidates)
        return cost_of([self.total(ids) for ids in candidates], {"nll": [Talker().nll(ids) for ids in candidates]})

    def coordinate_gradient(self, prefix: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        """Exact but for the pairs."""
        self.tokens += 2 * TOKENS_PER_CANDIDATE
        return self._single[: len(prefix), allowed]

    @property
    def weights(self) -> dict[str, float]:
        return {"nll": NLL_WEIGHT}

    def soft_loss(self, rows: torch.Tensor) -> torch.Tensor:
        self.tokens += (1 + rows.requires_grad) * TOKENS_PER_CANDIDATE
        single = (rows * self._single[: len(rows)]).sum()
        return single + torch.einsum("ni,ij,nj->", rows[:-1], self._pair, rows[1:])


class Talker:
    """Likes tokens the better the higher they are, and most of all the one after the last; it forwards for free."""

    tokens = 0

    def next_tokens(self, prefixes: Sequence[Ids], everywhere: bool = False) -> list[torch.Tensor]:
        return [
            torch.stack([self._after(ids[:gap]) for gap in range(0 if everywhere else len(ids), len(ids) + 1)])
            for ids in prefixes
        ]

    def nll(self, ids: Ids) -> float:
        said = [-self._after(ids[:gap])[ALLOWED.index(token)] for gap, token in enumerate(ids)]
        return float(sum(said)) / len(ids)

    def _after(self, ids: Ids) -> torch.Tensor:
        liking = torch.arange(len(ALLOWED)) / 10
        if ids and ids[-1] + 1 in ALLOWED:
            liking[ALLOWED.index(ids[-1] + 1)] += 3
        return liking.log_softmax(0)


class Scribe:
    """Writes lists of three words of random letters, the last of them cut off; it forwards for free."""

    tokens = 0

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []

    def write(self, request: str, opening: str, num_lists: int, seed: int) -> list[WrittenList]:
        self.requests.append((request, opening))
        dice = random.Random(seed)
        words = ["".join(dice.choices("defghijklmnopqrstuvwxyz", k=dice.randint(1, 4))) for _ in range(4 * num_lists)]
        written = [words[start : start + 4] for start in range(0, len(words), 4)]
        return [WrittenList(f" {a}\nAnd so on:\n2. {b}\n- {c}\n3. {d}", True) for a, b, c, d in written]


class Units:
    """Unit vectors for embeddings."""

    def __init__(self, allowed: Sequence[int] = ALLOWED) -> None:
        self._allowed = tuple(allowed)
        self.units = torch.ones(1)

    def rows(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.eye(NUM_IDS)[list(ids)]

    def nearest(self, rows: torch.Tensor) -> Ids:
        return tuple(self._allowed[index] for index in rows[:, list(self._allowed)].argmax(1).tolist())


def cost_of(totals: Sequence[float], terms: Mapping[str, Sequence[float]] | None = None) -> Cost:
    """A cost with the terms that matter."""
    found = {name: torch.tensor(values, dtype=torch.float64) for name, values in (terms or {}).items()}
    return Cost.of(torch.tensor(totals, dtype=torch.float64), found)


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
    """A toy during whose n-th call, be it for costs or a gradient, the process is killed."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._calls = calls

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        self._live()
        return super().cost(candidates, incumbent)

    def coordinate_gradient(self, prefix: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        self._live()
        return super().coordinate_gradient(prefix, allowed)

    def soft_loss(self, rows: torch.Tensor) -> torch.Tensor:
        self._live()
        return super().soft_loss(rows)

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
    aids = methods.ReasonerAccess(Talker, Units, writer=Scribe, traces=("one", "two", "three", "four"))
    method = methods.build(config, toy, words, start, journal.archive, aids)
    return driver.search(toy, words, method, config, journal, seed)
