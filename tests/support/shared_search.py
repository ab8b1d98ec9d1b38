"""`python -m tests.support.shared_search PROCESSES [fail]`: a search on a tiny random reasoner, shared by processes.

In float64; prints every number that it comes by, exactly.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from optimize.config import GcgConfig, RacingConfig
from optimize.objectives import (
    BenignDivergence,
    BenignLikelihood,
    CachedScorer,
    Objective,
    Readability,
    SafeContinuation,
    Unlikelihood,
    Weighted,
)
from optimize.parallel.cluster import Cluster, launch
from optimize.scoring import Example, Scorer, serve
from optimize.search import driver, methods
from optimize.search.journal import LOG, Journal, untimed
from tests.support import tiny_reasoner

VOCABULARY, LENGTH = 64, 3
START = (5, 6, 7)


class Letters:
    """A vocabulary in which every prefix survives."""

    allowed = tuple(range(3, 60))

    def survive(self, candidates):
        return [True] * len(candidates)

    def text(self, ids):
        return " ".join(map(str, ids))


def objective(model, cluster: Cluster) -> Objective:
    """Terms of every kind, over contexts of many lengths; one set has fewer contexts than there are processes."""
    generator = torch.Generator().manual_seed(3)

    def reading(count: int) -> CachedScorer:
        lengths = torch.randint(4, 30, (count,), generator=generator).tolist()
        rows = [torch.randint(VOCABULARY, (length + 6,), generator=generator).tolist() for length in lengths]
        examples = [Example(tuple(row[:-6]), tuple(row[-6:]), separator=(2,)) for row in rows]
        return CachedScorer(Scorer(model, examples, rows_per_forward=32, cluster=cluster))

    unsafe, harmless, single = reading(9), reading(4), reading(1)
    weighted = (
        (SafeContinuation(unsafe), 1.0),
        (Readability(unsafe), 0.05),
        (BenignLikelihood(harmless), 0.5),
        (BenignDivergence(harmless), 0.1),
        (Unlikelihood(single, clip=100.0), 0.1),
    )
    return Objective(model, [Weighted(*each) for each in weighted], RacingConfig(first_contexts=2, keep=2))


def run(model, cluster: Cluster) -> dict[str, object]:
    """A few steps of GCG, and the gradient of a soft prefix."""
    goal, settings = objective(model, cluster), GcgConfig(length=LENGTH, steps=4, candidates=12, top_k=8)
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder), "f")
        method = methods.build(settings, goal, Letters(), START, journal.archive)
        archive = driver.search(goal, Letters(), method, settings, journal, seed=0)
        log = untimed(Path(folder) / LOG)
    rows = model.get_input_embeddings()(torch.tensor(START)).detach().requires_grad_()
    loss = goal.soft_loss(rows)
    (gradient,) = torch.autograd.grad(loss, rows)
    with torch.no_grad():
        again = goal.soft_loss(rows)
    return {
        "log": log,
        "costs": [cost.hex() for cost in archive.costs.values()],
        "soft": [float(number).hex() for number in (loss.detach(), again, *gradient.flatten())],
        "tokens": goal.tokens,
    }


def main(devices: int, fail: bool) -> None:
    """Lead, or serve whoever does."""
    cluster = launch(devices, "cpu")
    model = tiny_reasoner.model(VOCABULARY, hidden_size=16).double()
    if not cluster.is_main:
        serve(model, cluster)
        return
    with cluster.leading():
        if fail:
            raise ValueError("the main process fails")
        print(json.dumps({"processes": cluster.size} | run(model, cluster)))


if __name__ == "__main__":
    main(int(sys.argv[1]), fail="fail" in sys.argv)
