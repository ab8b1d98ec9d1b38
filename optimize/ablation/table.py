"""The table of an ablation for a terminal: a line per method and place."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from optimize.ablation import columns
from optimize.ablation.columns import TEST, VALIDATION, Column
from optimize.ablation.grid import shown
from optimize.ablation.results import Ablation, Point

LEARNED: Final = ("recovery_rate", "lift", "accuracy_forced", "over_refusal_forced")
GUARDED: Final = ("recovery_rate", "asr_answer", "accuracy", "over_refusal", "false_interventions")
"""What a terminal has room for, without and with guarded runs on validation; the report has everything."""


def table(ablation: Ablation) -> Table:
    """Numbers on validation over all seeds, then those of the best seed on test; each value over its interval."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="95 % intervals below the values")
    measured = columns.known(VALIDATION, ablation)
    wanted = GUARDED if any(each.name == "asr_answer" for each in measured) else LEARNED
    validation = [each for each in measured if each.name in wanted]
    test = [each for each in columns.known(TEST, ablation) if each.name in ("asr_answer", "accuracy", "nll")]
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
