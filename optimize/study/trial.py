"""One trial: a whole search, and what the prefix it found is worth on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import BaseTrial, FrozenTrial

from optimize.contexts.folder import shared
from optimize.pipeline import learning
from optimize.pipeline.setup import Models, Setup
from optimize.selection.constraints import Constraints
from optimize.selection.metrics import of_estimate
from optimize.study.config import Choice, Goal, IntRange, StudyConfig, Value
from safethink.config import NoneConfig, yaml_config
from safethink.errors import ConfigError, SafeThinkError, SearchError
from safethink.evaluation.statistics import Observations, paired_difference, rate
from safethink.guarded import SafeThink
from safethink.judges import Judgement
from safethink.prefix import Metric, PrefixArtifact
from safethink.prompts import Prompt
from safethink.seeds import stable_seed

TRIALS, CONTEXTS, ATTACHED = "trials", "contexts", "attached"
ERROR = "error"
CHUNK = 16
"""Prompts between two looks at whether the trial is worth going on with."""


def folder_of(out: Path, trial: FrozenTrial) -> Path:
    """Folder of a trial's search; a trial that is tried again goes on in the folder of the first attempt."""
    first = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return out / TRIALS / str(trial.number if first is None else first)


@dataclass(frozen=True)
class Outcome:
    """Validation result of a trial's prefix.

    Attributes:
        harmful: per attack prompt, whether the guarded reasoner's output is.
        correct: per harmless task, whether the guarded answer is right.
        correct_bare: the same without a defense.
    """

    harmful: Observations
    correct: Observations
    correct_bare: Observations

    def metric(self, name: Goal, artifact: PrefixArtifact, seed: int) -> Metric:
        """One goal, with its interval; where there was nothing to see, 0 of 0."""
        match name:
            case "recovery_rate":
                return artifact.metrics["recovery_rate"]
            case "asr":
                estimate = rate(self.harmful, seed)
            case "accuracy_loss":
                estimate = paired_difference(self.correct_bare, self.correct, seed)
            case "length":
                length = float(max(len(prefix.token_ids) for prefix in artifact.prefixes))
                return Metric(value=length, low=length, high=length, n=1)
        return Metric(value=0.0, low=0.0, high=0.0, n=0) if estimate is None else of_estimate(estimate)


class Objective:
    """The objective function that Optuna calls for every trial.

    Args:
        config: the study.
        out: its folder; every trial's search is in a folder of its own there.
        models: of this process, kept between trials.
    """

    def __init__(self, config: StudyConfig, out: Path, models: Models) -> None:
        self._config, self._out, self._models = config, out, models

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        """Search, measure, report.

        Raises:
            TrialPruned: the prompts so far come out worse than those of the best trial; or these values do not go
                together, or leave nothing to learn from.
            SafeThinkError: what no other values would put right: a path that is not there, a file that is damaged.
        """
        try:
            return self._run(trial)
        except (SearchError, ConfigError) as error:
            trial.set_user_attr(ERROR, str(error))
            raise optuna.TrialPruned(str(error)) from error
        except SafeThinkError as error:
            trial.set_user_attr(ERROR, str(error))
            raise

    def _run(self, trial: optuna.Trial) -> float | tuple[float, ...]:
        config = self._config.variant({key: suggest(trial, key, self._config) for key in self._config.space})
        loaded = self._models.setup(config)
        if config.contexts.path is None:
            found = shared(self._out / CONTEXTS, loaded.guarded, loaded.data, config.contexts, loaded.source)
            config = yaml_config.override(config, {"contexts.path": str(found)}, "contexts")
        folder = folder_of(self._out, trial.study.trials[trial.number])
        artifact = learning.run(config, loaded, folder)
        _attach(trial, folder / learning.ARTIFACT, self._out / ATTACHED)
        trial.set_user_attr("texts", list(artifact.texts))
        _note(trial, artifact.metrics)
        for name, violation in Constraints.of(artifact.metrics, config.selection.max_forced_loss).violations.items():
            if name in artifact.metrics:
                trial.set_constraint(name, violation)
        guarded = loaded.guarded.variant(defense=config.run.defense, prefix=artifact)
        if self._config.goals == ("recovery_rate",):
            return artifact.metrics["recovery_rate"].value
        outcome = self._measure(trial, guarded, loaded)
        goals = {goal: outcome.metric(goal, artifact, self._config.seed) for goal in self._config.goals}
        _note(trial, goals)
        values = [metric.value for metric in goals.values()]
        return tuple(values) if len(values) > 1 else values[0]

    def _measure(self, trial: optuna.Trial, guarded: SafeThink, loaded: Setup) -> Outcome:
        validation = loaded.data[1]
        attacks = _shuffled(validation.attacks, self._config.seed)[: self._config.prompts]
        harmful: list[bool] = []
        for start in range(0, len(attacks), CHUNK):
            harmful += [each.outcome == "harmful" for each in _judged(guarded, loaded, attacks[start : start + CHUNK])]
            self._report(trial, harmful, start)
        tasks = [prompt for prompt in validation.harmless if prompt.reference is not None][: self._config.prompts]
        bare = guarded.variant(defense=NoneConfig())
        return Outcome(
            harmful=_observe(harmful, attacks),
            correct=_observe([bool(each.correct) for each in _judged(guarded, loaded, tasks)], tasks),
            correct_bare=_observe([bool(each.correct) for each in _judged(bare, loaded, tasks)], tasks),
        )

    def _report(self, trial: optuna.Trial, harmful: Sequence[bool], start: int) -> None:
        """Report prompt by prompt: the pruner compares the same prompts of two trials."""
        if self._config.goals != ("asr",):
            return
        for step in range(start, len(harmful)):
            trial.report(float(harmful[step]), step)
        if trial.should_prune():
            raise optuna.TrialPruned


def suggest(trial: BaseTrial, key: str, config: StudyConfig) -> Value:
    """The value of an axis in this trial."""
    axis = config.space[key]
    if isinstance(axis, Choice):
        return trial.suggest_categorical(key, axis.values)
    if isinstance(axis, IntRange):
        return trial.suggest_int(key, axis.low, axis.high, log=axis.log)
    return trial.suggest_float(key, axis.low, axis.high, log=axis.log)


def _attach(trial: optuna.Trial, artifact: Path, store: Path) -> None:
    """Attach the artifact's files to the trial, where Optuna's dashboard shows them; a finished trial takes none."""
    store.mkdir(exist_ok=True)
    for path in sorted(artifact.iterdir()):
        upload_artifact(artifact_store=FileSystemArtifactStore(store), file_path=str(path), study_or_trial=trial)


def _judged(guarded: SafeThink, loaded: Setup, prompts: Sequence[Prompt]) -> list[Judgement]:
    return loaded.chooser.judge(guarded.run(prompts)) if prompts else []


def _shuffled(prompts: Sequence[Prompt], seed: int) -> list[Prompt]:
    """In an order that is the same for every trial, and not that of the file."""
    return sorted(prompts, key=lambda prompt: stable_seed("study", seed, prompt.id))


def _observe(values: Sequence[bool], prompts: Sequence[Prompt]) -> Observations:
    return Observations.of(
        [float(value) for value in values],
        [prompt.id for prompt in prompts],
        [prompt.clusters for prompt in prompts],
    )


def _note(trial: optuna.Trial, metrics: Mapping[str, Metric]) -> None:
    """Write numbers down at the trial: value, interval and n."""
    for name, metric in metrics.items():
        trial.set_user_attr(name, [metric.value, metric.low, metric.high, metric.n])
