"""The methods side by side: equal budgets in forwarded tokens, the same contexts, five seeds, measured on validation.

The comparison is an ablation like any other; `runs/bench/methods` holds it, its report and its records, and a run that
was interrupted goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from scipy import stats

from optimize.ablation.config import AblationConfig
from optimize.ablation.results import Ablation, CellLine
from optimize.ablation.run import ablate
from safethink.config import yaml_config
from safethink.config.yaml_config import shipped_config
from tests.benchmarks.frame import BenchRow

OUT: Final = Path("runs/bench/methods")
LENGTHS: Final = (4, 8)
SEEDS: Final = (0, 1, 2, 3, 4)
CONTROLS: Final = ("random", "unigram")
LEARNED: Final = ("gcg", "evolution", "phrases", "soft")
SEARCHED: Final = ("gcg", "evolution")
MAX_REGRET: Final = 0.05
WIDER: Final = 10
"""The random search with a wider budget has so many times the tokens."""


def rows() -> Iterator[BenchRow]:
    """Recovery above the controls, seed by seed; and how far the searches end above the cheapest prefix of them all."""
    done = ablate(_config(), OUT)
    for length in LENGTHS:
        for method in LEARNED:
            for control in CONTROLS:
                differences = _paired(done, method, control, length)
                low, high = _interval(differences)
                note = f"recovery on validation, mean of {len(differences)} seeds"
                name = f"{method}_above_{control}_length_{length}"
                yield BenchRow(name, float(np.mean(differences)), low, high, note=note)
                note = "lower end of that interval, over seeds"
                yield BenchRow(f"{name}_surely", low, low, high, target=0.0, note=note)
        yield from _regrets(done, length)


def _config() -> AblationConfig:
    shipped = yaml_config.load(AblationConfig, shipped_config("ablate/testbed-length"))
    wanted = {name: variant for name, variant in shipped.methods.items() if name in (*LEARNED, *CONTROLS)}
    budget = shipped.base.search.budget_tokens
    assert budget is not None, "the shipped grid has a budget"
    wider = {"search.kind": "random", "search.budget_tokens": WIDER * budget, "search.steps": 100_000}
    methods = {name: variant.model_dump() | {"warm_start": False} for name, variant in wanted.items()}
    changes = {
        "axes": {"search.length": list(LENGTHS)},
        "methods": methods | {"random_wide": {"set": wider}},
        "seeds": list(SEEDS),
        "test": None,
    }
    return AblationConfig.model_validate(shipped.model_dump() | changes)


def _cells(done: Ablation, method: str, length: int) -> dict[int, CellLine]:
    found = (cell for cell in done.cells if cell.method == method and cell.place["search.length"] == length)
    return {cell.seed: cell for cell in found}


def _paired(done: Ablation, method: str, control: str, length: int) -> list[float]:
    own, other = _cells(done, method, length), _cells(done, control, length)
    both = sorted(own.keys() & other.keys())
    return [own[seed].metrics["recovery_rate"].value - other[seed].metrics["recovery_rate"].value for seed in both]


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95 % interval of the mean over seeds."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=error)
    return float(low), float(high)


def _regrets(done: Ablation, length: int) -> Iterator[BenchRow]:
    """Costs are comparable: every search of a length minimises the same objective over the same contexts."""
    hard = ("random", "unigram", "random_wide", *SEARCHED)
    costs = {
        (method, seed): _least_cost(cell) for method in hard for seed, cell in _cells(done, method, length).items()
    }
    least = min(costs.values())
    for method in SEARCHED:
        regrets = [costs[method, seed] - least for seed in SEEDS]
        low, high = _interval(regrets)
        note = f"nats above the cheapest of all searches and of {WIDER} times the random budget; mean over seeds"
        name = f"regret_{method}_length_{length}"
        yield BenchRow(name, float(np.mean(regrets)), low, high, MAX_REGRET, "at_most", note=note)


def _least_cost(cell: CellLine) -> float:
    log = OUT / "cells" / cell.name / "search.jsonl"
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return min(line["best_cost"]["total"] for line in lines if "best_cost" in line)
