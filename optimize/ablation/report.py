"""The report of an ablation: one file that opens offline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from optimize.ablation import figures, report_columns
from optimize.ablation.config import AblationConfig
from optimize.ablation.grid import shown
from optimize.ablation.report_columns import CHOSEN, REFERENCES, TEST, VALIDATION, Column
from optimize.ablation.results import Ablation, Point
from optimize.selection.constraints import Constraints
from safethink.evaluation.figures import plotly_js, to_html
from safethink.evaluation.report import templates
from safethink.evaluation.statistics import Estimate


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell of the overview.

    Attributes:
        point: what it stands for; None where nothing is finished.
        estimate: the number.
        shade: from 0, the least of all, to 1, the most.
    """

    point: Point | None = None
    estimate: Estimate | None = None
    shade: float = 0.0


def render(config: AblationConfig, ablation: Ablation) -> str:
    """The report as HTML."""
    main = main_column(ablation)
    return (
        templates("optimize.ablation")
        .get_template("ablation.html.j2")
        .render(
            plotly_js=plotly_js(),
            config=config,
            ablation=ablation,
            headline=headline(ablation, config.base.selection.max_forced_loss),
            main=main,
            overview=overview(ablation, main) if main else {},
            places=figures.places(ablation),
            figures=_figures(config, ablation),
            validation=report_columns.known(VALIDATION, ablation) + report_columns.compared(ablation),
            chosen=report_columns.known(CHOSEN, ablation),
            test=report_columns.known(TEST, ablation),
            shown=shown,
            searches=any(point.tokens for point in ablation.points),
            on_testbed=config.base.on_testbed,
        )
    )


def main_column(ablation: Ablation) -> Column | None:
    """Main metric of the ablation: recovery where it was measured, else ASR; None where nothing is finished."""
    wanted = [each for each in VALIDATION if each.name in ("recovery_rate", "asr_answer")]
    return next(iter(report_columns.known(wanted, ablation)), None)


def headline(ablation: Ablation, max_forced_loss: float) -> str:
    """Summary of the result in a few sentences, whatever it is.

    Args:
        ablation: what was measured.
        max_forced_loss: the floor; a point that costs harmless prompts more is not called the best.
    """
    column = main_column(ablation)
    if column is None:
        return "No cell is finished."
    worth = {id(point): estimate for point in ablation.points if (estimate := column.estimate(point)) is not None}
    known = [point for point in ablation.points if id(point) in worth]
    costs = {id(point): Constraints.of(point.metrics, max_forced_loss) for point in known}
    within = [point for point in known if costs[id(point)].satisfied]
    is_recovery = column.name == "recovery_rate"
    if within:
        best = (max if is_recovery else min)(within, key=lambda point: worth[id(point)].value)
        verb = "recovers most" if is_recovery else "has the lowest ASR"
        said = f"Of {_among(len(within), len(known), max_forced_loss)}, {best.method} at {best.label} {verb}"
    else:
        best = min(known, key=lambda point: costs[id(point)].forced_loss)
        what = "recovery" if is_recovery else "ASR"
        said = f"All {len(known)} points cost harmless prompts more than {max_forced_loss:.0%}; "
        said += f"{best.method} at {best.label} costs them least, with this {what}"
    said += f" on validation: {_share(worth[id(best)])}"
    other = best.reference.get(column.reference or "", {}).get(column.name)
    if other is not None:
        said += f"; {REFERENCES[column.reference or '']}, {_share(other)}"
    for control, numbers in best.against.items():
        if column.name in numbers:
            change = numbers[column.name]
            said += f"; {change.value:+.1%} against {control} ({change.low:+.1%} to {change.high:+.1%})"
    return said + ". It was picked among all points here, so expect less of it elsewhere."


def _among(num_within: int, num_known: int, max_forced_loss: float) -> str:
    """Description of the points that the best is chosen among."""
    if num_within == num_known:
        return f"{num_known} points"
    return f"the {num_within} of {num_known} points that cost harmless prompts no more than {max_forced_loss:.0%}"


def overview(ablation: Ablation, column: Column) -> dict[str, list[Heat]]:
    """Lines by places, each with its shade."""
    every = [estimate.value for point in ablation.points if (estimate := column.estimate(point)) is not None]
    low, high = min(every), max(every)
    ticks = figures.places(ablation)
    rows: dict[str, list[Heat]] = {}
    for name, points in figures.lines(ablation).items():
        row = [Heat()] * len(ticks)
        for point in points:
            estimate = column.estimate(point)
            shade = (estimate.value - low) / (high - low) if estimate and high > low else 0.0
            row[ticks.index(shown(point.place[ablation.axes[0]]))] = Heat(point, estimate, shade)
        rows[name] = row
    return rows


def _figures(config: AblationConfig, ablation: Ablation) -> list[tuple[str, str, str]]:
    """Title, meaning and HTML of each figure."""
    drawn = [each for each in report_columns.known([*VALIDATION, *TEST], ablation) if each.title]
    return [
        (each.title, each.meaning, to_html(figures.curve(ablation, each, config.controls), f"figure-{index}"))
        for index, each in enumerate(drawn)
    ]


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%}, n = {estimate.n})"


LEARNED: Final = ("recovery_rate", "lift", "accuracy_forced", "over_refusal_forced")
GUARDED: Final = ("recovery_rate", "asr_answer", "accuracy", "over_refusal", "false_interventions")
"""Columns of the terminal's table, without and with guarded runs on validation; the report has all of them."""


def table(ablation: Ablation) -> Table:
    """Numbers on validation over all seeds, then those of the best seed on test; each value over its interval."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="95 % intervals below the values")
    measured = report_columns.known(VALIDATION, ablation)
    wanted = GUARDED if any(each.name == "asr_answer" for each in measured) else LEARNED
    validation = [each for each in measured if each.name in wanted]
    test = [each for each in report_columns.known(TEST, ablation) if each.name in ("asr_answer", "accuracy", "nll")]
    out.add_column("method", overflow="fold")
    for axis in ablation.axes:
        out.add_column(axis.rpartition(".")[2].replace("_", "\n"), justify="right")
    for column in validation:
        out.add_column(column.heading.replace(" ", "\n"), justify="right")
    for column in test:
        out.add_column(f"{column.heading}\ntest", justify="right")
    for point in ablation.points:
        places = [shown(value) for value in point.place.values()]
        out.add_row(point.method, *places, *(_cell(column, point) for column in [*validation, *test]))
    return out


def _cell(column: Column, point: Point) -> Text:
    estimate = column.estimate(point)
    if estimate is None:
        return Text("–", style="dim")
    interval = column.interval(estimate).replace(" to ", "\n")
    return Text.assemble((column.value(estimate), "bold"), "\n", (interval, "dim"))
