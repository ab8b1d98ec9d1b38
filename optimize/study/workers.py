"""The processes of a study: each takes trials from the storage until enough are finished."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.study import MaxTrialsCallback
from optuna.trial import FrozenTrial, TrialState

from optimize.pipeline.process_pool import Pool, explain
from optimize.pipeline.setup import Models
from optimize.quiet import quiet_optuna
from optimize.study import storage
from optimize.study.config import StudyConfig
from optimize.study.trial import Objective
from safethink.errors import SafeThinkError
from safethink.progress import track

logger = logging.getLogger(__name__)

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Worker:
    """Takes trials until enough are finished.

    Attributes:
        index: of the process; every one brings a sampler of its own.
        config: the study.
        out: its folder.
    """

    index: int
    config: StudyConfig
    out: Path
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name in error messages."""
        return f"worker {self.index}"

    @property
    def log(self) -> Path:
        """Path of its progress log."""
        return self.out / f"worker-{self.index}.log"

    def run(self, models: Models) -> None:
        """Take trials."""
        with quiet_optuna():
            _work(self.config, self.out, self.index, models)


def run(config: StudyConfig, out: Path) -> optuna.Study:
    """Run a study to its end, or join one that others are running.

    Args:
        config: the study.
        out: its folder.

    Returns:
        The study, with at least `config.trials` finished trials.

    Raises:
        SafeThinkError: the storage cannot be used, a trial does not fit its models; or every worker died. What they
            finished is kept.
    """
    study = storage.open_study(config, out)
    storage.fail_stale(study)
    with track("trials", config.trials) as advance:
        advance(min(num_finished(study), config.trials))
        if config.workers == 1:
            _work(config, out, 0, Models(), lambda: advance(1))
        else:
            _share(study, config, out, advance)
    storage.fail_stale(study)
    return study


def num_finished(study: optuna.Study) -> int:
    """Trials that ran to their end, or were stopped for being worse than the best."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def _share(study: optuna.Study, config: StudyConfig, out: Path, advance: Callable[[int], None]) -> None:
    """Let several processes work, and say what becomes of them."""
    failures: dict[str, str] = {}
    done = num_finished(study)
    with Pool(config.workers) as pool:
        for ended in pool.each([Worker(index, config, out) for index in range(config.workers)], POLL_S):
            now = min(num_finished(study), config.trials)
            advance(now - done)
            done = now
            failed = {name: failure for name, failure in ended.items() if failure is not None}
            failures |= failed
            if len(failures) < config.workers:
                for name, failure in failed.items():
                    logger.warning("%s: %s; the others go on", name, failure)
    if done < config.trials:
        kept = "; what they finished is kept, and the same command goes on" if done else ""
        raise SafeThinkError(f"no worker is left, {done} of {config.trials} trials are done{kept}: {explain(failures)}")


def _work(
    config: StudyConfig, out: Path, index: int, models: Models, finished: Callable[[], None] = lambda: None
) -> None:
    """Take trials until enough are finished; those whose worker died come first."""

    def tell(study: optuna.Study, trial: FrozenTrial) -> None:
        finished()

    study = storage.open_study(config, out, index)
    if num_finished(study) >= config.trials:
        return
    with storage.reachable(config, out):
        study.optimize(
            Objective(config, out, models),
            callbacks=[MaxTrialsCallback(config.trials, FINISHED), tell],
            gc_after_trial=False,
        )
