"""The search against exhaustion: every prefix of a reduced vocabulary is scored, and GCG must find the cheapest.

All scores are made once, in a table; the search, with its shipped settings, reads its losses from there and takes
its gradients from the model as ever, so that many seeds cost little. At these lengths the shipped budget comes near the
size of the whole space, and the search never scores a prefix twice: that it ends at the cheapest one is expected. So
the regret after a tenth of the space stands beside it, and what as many random prefixes would have found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize import objectives
from optimize.config import ContextsConfig
from optimize.contexts import collect_search, splits
from optimize.objectives import Cost, Objective
from optimize.search import methods
from optimize.search.driver import search
from optimize.search.journal import Journal
from optimize.search.vocabulary import Vocabulary
from optimize.selection.trials import Ids
from safethink.config import WorldConfig
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow

NUM_TOKENS = 64
LENGTHS = (1, 2)
SEEDS = 8
MAX_REGRET = 0.02
SHARE = 0.1
CONTEXTS = ContextsConfig(prompts=60, harmless_prompts=4, max_contexts=8)
BLOCK = 512


@dataclass(frozen=True)
class Table:
    """What every prefix costs, with gradients from the objective behind it.

    Attributes:
        objective: scores prefixes.
        places: where each prefix stands in `costs`.
        costs: of all prefixes.
    """

    objective: Objective
    places: dict[Ids, int]
    costs: Cost

    @classmethod
    def score(cls, objective: Objective, prefixes: Sequence[Ids]) -> Table:
        """Score every prefix."""
        blocks = [objective.cost(prefixes[start : start + BLOCK]) for start in range(0, len(prefixes), BLOCK)]
        totals = torch.cat([block.total for block in blocks])
        return cls(objective, {ids: i for i, ids in enumerate(prefixes)}, Cost.of(totals, {}))

    @property
    def tokens(self) -> int:
        """The objective's own."""
        return self.objective.tokens

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """Look candidates up."""
        return Cost.of(self.costs.total[[self.places[ids] for ids in candidates]], {})

    def coordinate_gradient(
        self, prefix: Int[Tensor, "length"], allowed: Int[Tensor, "allowed"]
    ) -> Float[Tensor, "length allowed"]:
        """The objective's own."""
        return self.objective.coordinate_gradient(prefix, allowed)


def rows() -> Iterator[BenchRow]:
    """Regret in nats at each length: the worst with the shipped budget, and the mean after a tenth of the space."""
    reasoner, shipped = testbed.guarded("testbed"), testbed.shipped_search()
    split = splits.of_testbed("search", CONTEXTS.prompts, CONTEXTS.harmless_prompts, WorldConfig())
    contexts = collect_search(reasoner, split, CONTEXTS, testbed.THRESHOLD)
    init = reasoner.bind(shipped.search.init).token_ids[0]
    objective = objectives.build(reasoner, contexts, shipped.objective)
    words = _reduced(testbed.vocabulary(reasoner, contexts), init)
    for length in LENGTHS:
        everything = list(product(words.allowed, repeat=length))
        alive = [ids for ids, survives in zip(everything, words.survive(everything), strict=True) if survives]
        table = Table.score(objective, alive)
        best, budget = table.costs.total.min().item(), round(SHARE * len(alive))
        curves = [_search(table, words, init, length, seed) for seed in range(SEEDS)]
        regrets = [curve[-1] - best for curve in curves]
        sizes = [len(curve) for curve in curves]
        note = f"worst of {SEEDS} seeds; {min(sizes)} to {max(sizes)} of {len(alive)} prefixes scored"
        yield BenchRow(f"regret_length_{length}", *_worst(regrets), MAX_REGRET, "at_most", note=note)
        early = [curve[budget - 1] - best for curve in curves]
        note = f"mean; {budget} prefixes scored; as many random ones leave {_random_regret(table, budget):.3f}"
        yield BenchRow(f"regret_length_{length}_early", float(np.mean(early)), min(early), max(early), note=note)


def _reduced(words: Vocabulary, init: Ids) -> Vocabulary:
    """Some of the allowed tokens at random, with those that the search starts from among them."""
    others = [token for token in words.allowed if token not in init]
    drawn = np.random.default_rng(0).choice(others, NUM_TOKENS - len(set(init)), replace=False).tolist()
    return Vocabulary(words.tokenizer, sorted({*init, *drawn}), words.tails, ("\n",), "\n")


def _search(table: Table, words: Vocabulary, init: Ids, length: int, seed: int) -> list[float]:
    """The least cost found after each scored prefix."""
    config = testbed.shipped_search().search.replace(length=length)
    with TemporaryDirectory() as scratch:
        journal = Journal(Path(scratch), fingerprint="bench")
        method = methods.build(config, table, words, init[:length], journal.archive)
        archive = search(table, words, method, config, journal, seed)
    scored = [cost for cost in archive.costs.values() if cost < float("inf")]
    return np.minimum.accumulate(scored).tolist()


def _random_regret(table: Table, budget: int) -> float:
    """The mean regret of the best of `budget` random prefixes, over many draws."""
    rng, costs = np.random.default_rng(0), table.costs.total.numpy()
    found = [rng.choice(costs, budget, replace=False).min() for _ in range(1000)]
    return float(np.mean(found) - costs.min())


def _worst(regrets: Sequence[float]) -> tuple[float, float, float]:
    return max(regrets), min(regrets), max(regrets)
