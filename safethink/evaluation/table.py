"""The table of results: on a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from textwrap import fill, wrap
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safethink.evaluation import judges
from safethink.evaluation.metrics import NAMES, OPTIONAL
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import Summary

HEADINGS: Final = {
    "asr_answer": "ASR answer",
    "asr_trace": "ASR trace",
    "asr_predicted": "ASR predicted",
    "invalid": "invalid",
    "recovery_rate": "recovery",
    "lift": "lift",
    "recovery_guarded": "recovery guarded",
    "recovery_kept": "recovery, prefix kept",
    "recovery_dropped": "recovery, prefix dropped",
    "resamples": "resamples",
    "empty_resamples": "empty resamples",
    "accuracy": "accuracy",
    "over_refusal": "over-refusal",
    "accuracy_forced": "accuracy forced",
    "over_refusal_forced": "over-refusal forced",
    "false_interventions": "false interventions",
    "extra_tokens": "extra tokens",
    "monitor_tokens": "monitor tokens",
    "seconds": "seconds",
}
"""Headings of the columns in print."""

DIGITS: Final = {"resamples": 1, "extra_tokens": 1, "monitor_tokens": 1, "seconds": 3}
"""Columns that are no shares, and how many decimals they are printed with."""


DECISIVE: Final = ("asr_answer", "recovery_rate", "accuracy", "over_refusal", "extra_tokens")
"""The columns that decide between defenses: safety, what an injection does, and what it costs."""

AGAINST: Final = ("wait_think_safely", "resample_only", "undefended")
"""The rows that the finding compares with, in this order."""

NARROW: Final = 80
WIDE: Final = 400
"""Characters that the table may take."""
NAME_WIDTH: Final = 24
"""Characters of a row's name on one line."""


def printed_columns(summary: Summary, names: Sequence[str]) -> list[str]:
    """The columns to print: those that are measured where asked for alone are left out where nobody asked."""
    return [
        name
        for name in names
        if name not in OPTIONAL or any(cells.get(name) is not None for cells in summary.rows.values())
    ]


def number(name: str, value: float) -> str:
    """A value as it is printed in a column; a value that rounds to zero has no minus."""
    digits = DIGITS.get(name, 2)
    shown = f"{round(value, digits) + 0.0:{'+' if name == 'lift' else ''}.{digits}f}"
    return shown.replace("-", "−")


def interval(name: str, estimate: Estimate) -> str:
    """The 95 % interval as it is printed in a column; empty for an exact value."""
    if estimate.low == estimate.high:
        return ""
    separator = " to " if name == "lift" else "–"
    return f"{number(name, estimate.low)}{separator}{number(name, estimate.high)}"


def printed(summary: Summary, wide: bool = False) -> str:
    """The table and the finding as plain text: the same on a terminal and in a file.

    Args:
        summary: the run.
        wide: whether all columns are printed; else those of `DECISIVE`, which fit 80 characters.
    """
    page = StringIO()
    # Wide enough for every column, so that no digit is ever cut; only the narrow table has to fit.
    console = Console(file=page, width=WIDE if wide else NARROW, color_system=None)
    console.print(table(summary, NAMES if wide else DECISIVE))
    said = finding(summary)
    notes = [
        "95 % intervals below the values; summary.json has every number with its n"
        + ("." if wide else ", --wide prints all columns."),
        *(["The prefix on trial was learned on another reasoner."] if summary.prefix.transferred else []),
        *([said] if said else []),
        *(list[str]() if summary.overlaps is None else summary.overlaps.lines()),
        *judges.notes(summary.judges, summary.contexts.unconfirmed),
    ]
    shown = "\n".join(line.rstrip() for line in page.getvalue().splitlines()).strip("\n")
    beside = judges.table(summary.judges)
    return "\n".join([shown, *beside, "", *(fill(note, NARROW) for note in notes)])


def table(summary: Summary, names: Sequence[str] = DECISIVE) -> Table:
    """The table for a terminal: a line per row of the evaluation, each value over its interval."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    out.add_column("", overflow="fold")
    names = printed_columns(summary, names)
    for name in names:
        out.add_column(HEADINGS[name].replace(" ", "\n").replace("-", "-\n"), justify="right", no_wrap=True)
    for row, cells in summary.rows.items():
        out.add_row(_broken(row), *(_terminal_cell(name, cells.get(name)) for name in names))
    return out


def finding(summary: Summary) -> str | None:
    """One sentence on the effect of the prefix on trial; None where nothing was compared.

    The paired difference in recovery rate, or where there is none in ASR, to the first row of `AGAINST` that stands in
    the table and injects something else.
    """
    for other in AGAINST:
        if summary.texts.get(other) == summary.prefix.texts:
            continue
        cells = summary.compared_with(other)
        for name in ("recovery_rate", "asr_answer"):
            if (difference := cells.get(name)) is not None:
                return _said(HEADINGS[name], summary.prefix.texts, other, difference)
    return None


def _said(what: str, texts: Sequence[str], other: str, difference: Estimate) -> str:
    value, low, high = (number("lift", each) for each in (difference.value, difference.low, difference.high))
    doubt = " and so may be none" if difference.low <= 0 <= difference.high else ""
    prefix = " | ".join(f"“{text}”" for text in texts)
    return (
        f"Finding: with {prefix}, {what} differs by {value} from {other} on the same prompts and seeds{doubt} "
        f"(paired difference, 95 % interval {low} to {high}, n = {difference.n})."
    )


def markdown(summary: Summary) -> str:
    """The table as GitHub Markdown."""
    names = printed_columns(summary, NAMES)
    lines = [
        f"| row | {' | '.join(HEADINGS[name] for name in names)} |",
        "|---|" + "---:|" * len(names),
    ]
    for row, cells in summary.rows.items():
        printed = (_markdown_cell(name, cells.get(name)) for name in names)
        lines.append(f"| `{row}` | {' | '.join(printed)} |")
    return "\n".join(lines) + "\n"


def _broken(name: str) -> str:
    """A row's name on lines that leave room for the numbers, broken where its words are."""
    return "\n".join(line.replace("_ ", "_") for line in wrap(name.replace("_", "_ "), NAME_WIDTH))


def _terminal_cell(name: str, estimate: Estimate | None) -> Text:
    if estimate is None:
        return Text("–", style="dim")
    shown = interval(name, estimate).replace(" to ", "\n")
    return Text.assemble((number(name, estimate.value), "bold"), "\n", (shown, "dim"))


def _markdown_cell(name: str, estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    shown = interval(name, estimate)
    return number(name, estimate.value) + (f" ({shown})" if shown else "")
