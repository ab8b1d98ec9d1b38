"""`python -m tests.benchmarks.shared_steps PROCESSES`: steps of a search on the testbed, shared by processes.

Answers requests until there are no more: how long steps took, and what they chose.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from optimize.parallel.cluster import launch
from optimize.scoring import Example, Scorer, serve
from tests.benchmarks import testbed
from tests.benchmarks.worker import answer

NUM_CONTEXTS, CONTEXT_TOKENS, TARGET_TOKENS = 24, (60, 150), 24
WIDTH, LENGTH = 96, 4


def main(processes: int) -> None:
    """Lead, or serve whoever does."""
    cluster = launch(processes, "cpu")
    model = testbed.guarded("testbed").model.double()
    if not cluster.is_main:
        serve(model, cluster)
        return
    with cluster.leading():
        scorer = Scorer(model, _examples(model.config.vocab_size), cluster=cluster)

        def steps(count: int, seed: int) -> Mapping[str, Any]:
            generator = torch.Generator().manual_seed(seed)
            seconds: list[float] = []
            chosen: list[tuple[int, str, str]] = []
            for _ in range(count):
                candidates = torch.randint(model.config.vocab_size, (WIDTH, LENGTH), generator=generator)
                started = time.perf_counter()
                slope = scorer.gradient(candidates[0])
                losses = scorer.losses(candidates).continuation.mean(1)
                seconds.append(time.perf_counter() - started)
                best = int(losses.argmin())
                chosen.append((best, float(losses[best]).hex(), float(slope.abs().sum()).hex()))
            return {"seconds": seconds, "chosen": chosen}

        answer(steps)


def _examples(vocab_size: int) -> list[Example]:
    """Contexts and targets of random tokens."""
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocab_size, (count,), generator=generator).tolist())

    lengths = torch.randint(*CONTEXT_TOKENS, (NUM_CONTEXTS,), generator=generator).tolist()
    return [Example(ids(length), ids(TARGET_TOKENS)) for length in lengths]


if __name__ == "__main__":
    main(int(sys.argv[1]))
