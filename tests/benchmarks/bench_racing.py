"""Racing against full scoring: the same searches, from the same seeds, until both have reached an equal loss.

The loss that counts is the worse of the two searches' last ones, so that both reach it. Times are those of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel

from optimize.config import ContextsConfig, GcgConfig, RacingConfig
from optimize.contexts import ContextSet, collect_search, splits
from optimize.objectives import Cost, Objective, Weighted, terms
from optimize.search import methods
from optimize.search.driver import search
from optimize.search.journal import Journal
from optimize.search.method import Ids
from optimize.search.vocabulary import Vocabulary
from safethink.config import WorldConfig
from safethink.guarded import SafeThink
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow

CONTEXTS = ContextsConfig(prompts=120, harmless_prompts=16, max_contexts=16)
RACING, WIDTH = RacingConfig(keep=0, keep_share=0.25, confidence=0.7), 48
"""Heats as `smollm2-gcg` has them, and candidates of a step; full scoring has those of the shipped testbed search."""
STEPS, RACED_STEPS, SEEDS = 16, 32, 6
MIN_SPEEDUP, MAX_LOSS = 4.0, 0.01


class Timed(Objective):
    """An objective that notes when it came by which loss: the least exact one so far, after every step."""

    def __init__(self, model: PreTrainedModel, weighted: Sequence[Weighted], racing: RacingConfig | None) -> None:
        super().__init__(model, weighted, racing)
        self.curve: list[tuple[float, float]] = []
        self._started = time.process_time()

    def cost(self, candidates: Sequence[Ids], incumbent: Ids | None = None) -> Cost:
        """What every candidate costs."""
        cost = super().cost(candidates, incumbent)
        before = self.curve[-1][1] if self.curve else float("inf")
        least = min([before, *cost.total[cost.exact].tolist()])
        self.curve.append((time.process_time() - self._started, least))
        return cost

    @property
    def seconds_per_step(self) -> float:
        """Mean over the steps so far."""
        return self.curve[-1][0] / len(self.curve)

    def seconds_to(self, loss: float) -> float:
        """When the cost was first as low as that."""
        return next(seconds for seconds, least in self.curve if least <= loss)


def rows() -> Iterator[BenchRow]:
    """How many times faster a loss is reached, and how far the racing searches end above the others."""
    reasoner = testbed.guarded("testbed")
    split = splits.of_testbed("search", CONTEXTS.prompts, CONTEXTS.harmless_prompts, WorldConfig())
    contexts = collect_search(reasoner, split, CONTEXTS, testbed.THRESHOLD)
    pairs = [(_search(reasoner, contexts, None, s), _search(reasoner, contexts, RACING, s)) for s in range(SEEDS)]
    reached = [max(full.curve[-1][1], raced.curve[-1][1]) for full, raced in pairs]
    times = [
        (full.seconds_to(loss), raced.seconds_to(loss)) for (full, raced), loss in zip(pairs, reached, strict=True)
    ]
    ratios = [full / raced for full, raced in times]
    total = sum(full for full, _ in times) / sum(raced for _, raced in times)
    excess = [raced.curve[-1][1] / full.curve[-1][1] - 1 for full, raced in pairs]
    exact = mean(excess) <= MAX_LOSS
    note = f"{SEEDS} seeds together; {len(contexts.unsafe)} contexts and {len(contexts.harmless)} harmless ones"
    yield BenchRow("racing_over_full_scoring", total, min(ratios), max(ratios), MIN_SPEEDUP, exact=exact, note=note)
    steps = [full.seconds_per_step / raced.seconds_per_step for full, raced in pairs]
    note = f"{STEPS} steps and {RACED_STEPS} of half the width"
    yield BenchRow("racing_step_over_full_step", mean(steps), min(steps), max(steps), note=note)
    note = "relative; mean over seeds"
    yield BenchRow("racing_excess_loss", mean(excess), min(excess), max(excess), MAX_LOSS, "at_most", note=note)


def _search(reasoner: SafeThink, contexts: ContextSet, racing: RacingConfig | None, seed: int) -> Timed:
    shipped = testbed.shipped_search()
    assert isinstance(shipped.search, GcgConfig)
    config = shipped.search.replace(steps=STEPS, init=None)
    if racing is not None:
        config = config.replace(steps=RACED_STEPS, candidates=WIDTH)
    timed = Timed(reasoner.model, terms(reasoner, contexts, shipped.objective, testbed.THRESHOLD), racing)
    words = Vocabulary.of(reasoner, contexts)
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "bench")
        method = methods.build(config, timed, words, (), journal.archive)
        search(timed, words, method, config, journal, seed)
    return timed
