"""The processes of a study: each takes trials from the storage until enough are finished."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
import torch
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from optimize.study import storage
from optimize.study.config import StudyConfig
from optimize.study.quiet import quiet
from optimize.study.trial import Objective
from safethink.commandline import quiet_libraries
from safethink.errors import SafeThinkError
from safethink.progress import track

logger = logging.getLogger(__name__)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
POLL_S = 1.0


def run(config: StudyConfig, out: Path) -> optuna.Study:
    """Run a study to its end, or join one that others are running.

    Args:
        config: the study.
        out: its folder.

    Returns:
        The study, with at least `config.trials` finished trials.

    Raises:
        SafeThinkError: the storage cannot be used; or every worker died, and what they finished is kept.
    """
    study = storage.open_study(config, out)
    if config.workers == 1:
        with track("trials", config.trials) as advance:
            advance(num_finished(study))
            _work(config, out, 0, lambda: advance(1))
        return study
    processes = [
        get_context("spawn").Process(target=_process, args=(config, out, index)) for index in range(config.workers)
    ]
    for process in processes:
        process.start()
    try:
        _watch(study, config, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if num_finished(study) < config.trials:
        raise SafeThinkError(
            f"all {config.workers} workers died after {num_finished(study)} of {config.trials} trials; "
            "what they finished is kept, the same command goes on"
        )
    return study


def num_finished(study: optuna.Study) -> int:
    """Trials that ran to their end, or were stopped for being worse than the best."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def _watch(study: optuna.Study, config: StudyConfig, processes: Sequence[BaseProcess]) -> None:
    """Show progress until no worker is left; say which ones died."""
    told: set[int] = set()
    with track("trials", config.trials) as advance:
        done = 0
        while any(process.is_alive() for process in processes):
            time.sleep(POLL_S)
            now = min(num_finished(study), config.trials)
            advance(now - done)
            done = now
            for index, process in enumerate(processes):
                if process.exitcode not in (None, 0) and index not in told:
                    told.add(index)
                    logger.warning("worker %d died (exit code %s); its trial is tried again", index, process.exitcode)


def _process(config: StudyConfig, out: Path, index: int) -> None:
    """What a worker process does; its own progress goes to a log beside the study."""
    quiet_libraries()
    # Workers share the cores; two with two threads each are slower than two with one.
    torch.set_num_threads(1)
    with (out / f"worker-{index}.log").open("a") as log, redirect_stderr(log), quiet():
        _work(config, out, index, lambda: None)


def _work(config: StudyConfig, out: Path, index: int, finished: Callable[[], None]) -> None:
    """Take trials until enough are finished; those whose worker died come first."""
    with storage.reachable(config, out):
        study = storage.open_study(config, out, index)
        if num_finished(study) >= config.trials:
            return
        study.optimize(
            Objective(config, out),
            callbacks=[MaxTrialsCallback(config.trials, FINISHED), lambda *_: finished()],
            gc_after_trial=False,
        )
