"""The table of results: on a terminal, and as Markdown."""

from __future__ import annotations

from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from safethink.evaluation.metrics import NAMES
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import Summary

HEADINGS: Final = {
    "asr_answer": "ASR answer",
    "asr_trace": "ASR trace",
    "asr_predicted": "ASR predicted",
    "invalid": "invalid",
    "recovery_rate": "recovery",
    "lift": "lift",
    "resamples": "resamples",
    "accuracy": "accuracy",
    "over_refusal": "over-refusal",
    "accuracy_forced": "accuracy forced",
    "over_refusal_forced": "over-refusal forced",
    "false_interventions": "false interventions",
    "extra_tokens": "extra tokens",
    "monitor_tokens": "monitor tokens",
    "seconds": "seconds",
}
"""How the columns are called in print."""

DIGITS: Final = {"resamples": 1, "extra_tokens": 1, "monitor_tokens": 1, "seconds": 3}
"""Columns that are no shares, and how many decimals they are printed with."""


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


def table(summary: Summary) -> Table:
    """The table for a terminal, turned on its side to fit: a line per column, each value over its interval."""
    transferred = "; the prefix on trial was learned on another reasoner" if summary.prefix.transferred else ""
    caption = f"95 % intervals below the values{transferred}"
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    out.add_column("", min_width=13)
    for row in summary.rows:
        out.add_column(row.replace("_", "\n"), justify="right", overflow="fold")
    for name in NAMES:
        out.add_row(HEADINGS[name], *(_terminal_cell(name, cells[name]) for cells in summary.rows.values()))
    return out


def markdown(summary: Summary) -> str:
    """The table as GitHub Markdown."""
    lines = [
        f"| row | {' | '.join(HEADINGS[name] for name in NAMES)} |",
        "|---|" + "---:|" * len(NAMES),
    ]
    for row, cells in summary.rows.items():
        printed = (_markdown_cell(name, cells[name]) for name in NAMES)
        lines.append(f"| `{row}` | {' | '.join(printed)} |")
    return "\n".join(lines) + "\n"


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
