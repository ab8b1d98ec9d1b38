"""Two processes over one, one thread each: steps of a search over the testbed's contexts, in float64.

Both stay up while they take turns, so that a busy machine slows both; they must choose the same, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.frame import BenchRow
from tests.benchmarks.worker import Worker

MIN_SPEEDUP = 1.5
RUNS, STEPS = 7, 3
LOGS = Path("runs/bench")


def rows() -> Iterator[BenchRow]:
    """How many times faster a step is."""
    with _steps(1) as one, _steps(2) as two:
        ratios: list[float] = []
        exact = True
        for run in range(-1, RUNS):
            alone, shared = (each.ask(count=STEPS, seed=run + 1) for each in (one, two))
            exact &= alone["chosen"] == shared["chosen"]
            # The first run warms up.
            if run >= 0:
                ratios.append(median(alone["seconds"]) / median(shared["seconds"]))
    note = "gradient and 96 candidates in 24 contexts; losses and gradients are equal bit for bit"
    yield BenchRow(
        "two_processes_over_one", median(ratios), min(ratios), max(ratios), MIN_SPEEDUP, exact=exact, note=note
    )


def _steps(processes: int) -> Worker:
    command = [sys.executable, "-m", "tests.benchmarks.shared_steps", str(processes)]
    return Worker(command, LOGS / f"shared_steps_{processes}.log", {"GLOO_SOCKET_IFNAME": "lo"})
