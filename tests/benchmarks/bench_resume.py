"""A search killed at random moments, and started again, against the one that was left alone.

Every run is a process of its own and is killed by SIGKILL, which no process can catch, so that nothing is tidied up.
The processes are forked from one that has everything imported, so that the moment, uniform over how long the
undisturbed run takes, falls into work. Two artifacts are the same if every file of theirs is, byte by byte.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np

from optimize.config import SearchConfig
from optimize.pipeline.learning import ARTIFACT, CONTEXTS, TRIALS
from optimize.search.journal import STATE
from safethink.evaluation.statistics import clopper_pearson
from safethink.prefix import JSON_FILE
from tests.benchmarks.frame import BenchRow

FORKS: Final = multiprocessing.get_context("forkserver")
KILLS: Final = 20
TIMEOUT_S: Final = 300.0
SEARCH: Final[dict[str, Any]] = {
    "run": {
        "reasoner": {"path": "testbed"},
        "monitor": {"kind": "guard", "path": "testbed"},
        "limits": {"max_step_tokens": 48, "max_trace_tokens": 128, "max_answer_tokens": 32},
        "batch_size": 32,
    },
    "contexts": {"prompts": 12, "harmless_prompts": 4, "max_contexts": 4, "best_of": 4},
    "search": {"kind": "gcg", "init": None, "length": 3, "steps": 12, "candidates": 16, "top_k": 12},
    "selection": {"finalists": 3, "spread": 1, "contexts": 8, "samples": 2, "forced_prompts": 4, "portfolio": 2},
}
STAGES: Final = {"the artifact": f"{ARTIFACT}/{JSON_FILE}", "trials": TRIALS, "the search": STATE, "contexts": CONTEXTS}
"""What was written last, and the file that tells; the furthest first."""


def rows() -> Iterator[BenchRow]:
    """The share of killed runs that end with the same artifact; and one run killed as often, whenever it starts."""
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        FORKS.set_forkserver_preload(["optimize.pipeline.api", "optimize.search.gcg"])
        _finished(folder / "warm-up")  # The first process waits for the others' common imports.
        started = time.monotonic()
        expected = _finished(folder / "whole")
        duration_s = time.monotonic() - started
        same: list[bool] = []
        stages: Counter[str] = Counter()
        for index in count():
            if len(same) == KILLS:
                break
            out = folder / f"killed-{index}"
            killed = _killed(out, rng.uniform(0.0, duration_s))
            # On a machine that is less busy by now the run may be over before its moment comes: then another one.
            if killed:
                stages[_stage(out)] += 1
                same.append(_finished(out) == expected)
        low, high = clopper_pearson(sum(same), KILLS)
        reached = ", ".join(f"{number} after {stage}" for stage, number in stages.items())
        note = f"of {KILLS} runs, each killed once in {duration_s:.0f} s: {reached}"
        yield BenchRow("same_artifact_killed_once", sum(same) / KILLS, low, high, 1.0, exact=all(same), note=note)
        out = folder / "killed-again-and-again"
        kills = sum(_killed(out, rng.uniform(0.0, duration_s)) for _ in range(KILLS))
        equal = _finished(out) == expected
        note = f"one run, killed {kills} times in {KILLS} starts"
        yield BenchRow("same_artifact_killed_often", float(equal), equal, equal, 1.0, exact=equal, note=note)


def _killed(out: Path, after_s: float) -> bool:
    """Start the search, kill it at a moment; whether it was still running then."""
    child = _start(out)
    child.join(after_s)
    still_ran = child.is_alive()
    child.kill()
    child.join()
    assert still_ran or child.exitcode == 0, _complaint(out)
    return still_ran


def _finished(out: Path) -> dict[str, bytes]:
    """Run the search to its end; the files of its artifact."""
    child = _start(out)
    child.join(TIMEOUT_S)
    child.kill()
    child.join()
    assert child.exitcode == 0, _complaint(out)
    return {path.name: path.read_bytes() for path in sorted((out / ARTIFACT).iterdir())}


def _start(out: Path) -> BaseProcess:
    child = FORKS.Process(target=search_to, args=(out,))
    child.start()
    return child


def search_to(out: Path) -> None:
    """What a process does: the search, on one thread; what it says goes to a file."""
    import torch

    from optimize.pipeline.api import search_command

    torch.set_num_threads(1)
    with _log(out).open("w", encoding="utf-8") as file, redirect_stderr(file):
        search_command(SearchConfig.model_validate(SEARCH), out)


def _log(out: Path) -> Path:
    return out.with_suffix(".log")


def _complaint(out: Path) -> str:
    return f"the search ended by itself, without an artifact: {_log(out).read_text(encoding='utf-8')}"


def _stage(out: Path) -> str:
    return next((stage for stage, name in STAGES.items() if (out / name).exists()), "nothing")
