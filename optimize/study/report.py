"""Report of a study: its trials as a table, and Optuna's own plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna import visualization
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState

from optimize.pipeline.learning import ARTIFACT
from optimize.study.config import StudyConfig
from optimize.study.trial import ERROR, folder_of
from safethink.evaluation import figures
from safethink.evaluation.report import templates
from safethink.files import write_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # pyright: ignore[reportMissingTypeStubs]

REPORT = "report.html"
IMPORTANCES_FROM = 10
"""Complete trials below which the importance of a setting is chance."""


@dataclass(frozen=True, slots=True)
class Line:
    """One trial in the table.

    Attributes:
        number: of the trial.
        state: `complete`, `pruned`, `fail` or `running`.
        values: by goal.
        intervals: low, high and n, by goal, where there are any.
        params: what it changed, by dotted key.
        text: the prefix it found; or why it found none.
        feasible: whether every constraint holds; None where that was not measured.
        best: whether it is the best one, or one of the Pareto front.
    """

    number: int
    state: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float, int]]
    params: dict[str, Any]
    text: str
    feasible: bool | None
    best: bool


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The best trial, or the Pareto front, of those that keep the constraints.

    Where none does, the one that comes closest; none where nothing finished.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in complete if is_feasible(trial) is not False]
    if not feasible:
        return [min(complete, key=lambda trial: max(trial.constraints.values()))] if complete else []
    if len(study.directions) > 1:
        return study.best_trials
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    return [min(feasible, key=lambda trial: sign * (trial.value or 0.0))]


def why_nothing(study: optuna.Study) -> str | None:
    """The first failed trial's reason where no trial came to its end; None where one did."""
    if best_trials(study):
        return None
    told = (trial.user_attrs.get(ERROR) for trial in study.get_trials(deepcopy=False))
    return next((str(reason) for reason in told if reason), "every trial was stopped")


def is_feasible(trial: FrozenTrial) -> bool | None:
    """Whether every constraint holds; None where none was measured."""
    measured = trial.constraints
    return all(value <= 0 for value in measured.values()) if measured else None


def lines(study: optuna.Study, config: StudyConfig) -> list[Line]:
    """All trials, the best first."""
    best = {trial.number for trial in best_trials(study)}
    told = [_line(trial, config, trial.number in best) for trial in study.get_trials(deepcopy=False)]
    return sorted(told, key=lambda line: (not line.best, line.number))


def winners(study: optuna.Study, out: Path) -> list[Path]:
    """The artifacts of the best trials."""
    folders = (folder_of(out, trial) / ARTIFACT for trial in best_trials(study))
    return [folder for folder in folders if folder.is_dir()]


def write(study: optuna.Study, config: StudyConfig, out: Path) -> Path:
    """Write the report.

    Raises:
        RecordError: it could not be written.
    """
    html = (
        templates("optimize.study")
        .get_template("study.html.j2")
        .render(
            plotly_js=figures.plotly_js(),
            figures={name: figures.to_html(figure, name) for name, figure in _figures(study, config).items()},
            lines=lines(study, config),
            too_few=_too_few(study, config),
            goals=config.goals,
            name=config.name,
            on_testbed=config.base.on_testbed,
        )
    )
    write_text(out / REPORT, html)
    return out / REPORT


def _line(trial: FrozenTrial, config: StudyConfig, best: bool) -> Line:
    texts: Sequence[str] = trial.user_attrs.get("texts", ())
    return Line(
        number=trial.number,
        state=trial.state.name.lower(),
        # A pruned trial's value is that of its last prompt.
        values=dict(zip(config.goals, trial.values, strict=True)) if trial.state == TrialState.COMPLETE else {},
        intervals={
            goal: _interval(trial, goal) for goal in config.goals if goal in trial.user_attrs and goal != "length"
        },
        params={key: round(value, 4) if isinstance(value, float) else value for key, value in trial.params.items()},
        text=" · ".join(texts) or str(trial.user_attrs.get(ERROR, "")),
        feasible=is_feasible(trial),
        best=best,
    )


def _interval(trial: FrozenTrial, goal: str) -> tuple[float, float, int]:
    _, low, high, n = trial.user_attrs[goal]
    return low, high, n


def _too_few(study: optuna.Study, config: StudyConfig) -> str | None:
    """A sentence in place of the importances where too few trials are complete to tell them; None where enough are."""
    num_complete = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if len(config.goals) > 1 or num_complete >= IMPORTANCES_FROM:
        return None
    return f"Too few trials to tell which setting matters: {num_complete} complete, {IMPORTANCES_FROM} needed."


def _figures(study: optuna.Study, config: StudyConfig) -> dict[str, Figure]:
    """Optuna's plots, those that the trials are enough for."""
    drawn: dict[str, Figure] = {}
    makers = {
        "front": lambda: visualization.plot_pareto_front(study, target_names=list(config.goals)),
        "history": lambda: visualization.plot_optimization_history(study),
        "importances": lambda: visualization.plot_param_importances(study),
        "slices": lambda: visualization.plot_slice(study),
    }
    wanted: tuple[str, ...] = ()
    if len(config.goals) == 1:
        wanted = ("history", "importances", "slices")
    elif len(config.goals) < 4:
        wanted = ("front",)
    for name in wanted:
        if name == "importances" and _too_few(study, config):
            continue
        try:
            drawn[name] = figures.fit(makers[name]())
        except (ValueError, RuntimeError, OptunaError):
            # Too few trials, or none that differ: there is nothing to draw.
            continue
    return drawn
