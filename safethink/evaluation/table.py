"""The table of results: on a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from textwrap import fill, wrap
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from safethink.evaluation import judges
from safethink.evaluation.metrics import NAMES, OPTIONAL, OUTCOMES
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import Summary
from safethink.judges import Outcome

HEADINGS: Final = {
    "asr_answer": "ASR answer",
    "asr_trace": "ASR trace",
    "asr_predicted": "ASR predicted",
    "invalid_attacks": "invalid attacks",
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


DECISIVE: Final = ("asr_answer", "invalid_attacks", "recovery_rate", "accuracy", "over_refusal", "extra_tokens")
"""The columns that decide between defenses: safety, what an injection does, and what it costs. An ASR never stands
without the share of attacks whose output is invalid, which is neither harmful nor safe."""

OUTCOME_WORDS: Final[dict[Outcome, str]] = {"refusal": "refused"}
"""Outcomes that headings have another word for."""
FEW: Final = 20
"""Prompts below which a rate tells little, and the tables say so."""

AGAINST: Final = ("wait_think_safely", "resample_only", "undefended")
"""The rows that the finding compares with, in this order."""

NARROW: Final = 80
"""Characters of a line of prose."""
COMPACT: Final = 120
WIDE: Final = 400
"""Characters that the table may take."""
NAME_WIDTH: Final = 13
"""Characters of a row's name on one line, where its cells take two."""
ONE_LINE_NAME: Final = 28
"""The same, where its cells take one line."""
OUTCOME_WIDTH: Final = 17
"""Characters of a benchmark's name on one line: those of its outcomes."""
SIDE_BY_SIDE: Final = 5
"""Benchmarks in one table of outcomes."""


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
        wide: whether all columns are printed; else those of `DECISIVE`, which fit 120 characters.
    """
    page = StringIO()
    # Wide enough for every column, so that no digit is ever cut; only the compact tables have to fit.
    console = Console(file=page, width=WIDE if wide else COMPACT, color_system=None)
    console.print(table(summary, NAMES if wide else DECISIVE))
    for part in outcome_tables(summary):
        console.print(part)
    notes = [
        "95 % intervals below the values; summary.json has every number with its n"
        + ("." if wide else ", --wide prints all columns."),
        *(["The prefix on trial was learned on another reasoner."] if summary.prefix.transferred else []),
        *(said for said in (finding(summary), finding_closed(summary)) if said),
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
        out.add_row(_broken(row, NAME_WIDTH), *(_terminal_cell(name, cells.get(name)) for name in names))
    return out


def outcome_tables(summary: Summary) -> list[Table]:
    """The outcomes of every row on every benchmark for a terminal, stacked into one cell; few benchmarks to a table."""
    names = benchmark_names(summary)
    few = SIDE_BY_SIDE - ("unjudged" in outcome_names(summary))  # A fifth share takes its room.
    return [_outcome_table(summary, names[start : start + few]) for start in range(0, len(names), few)]


def benchmark_names(summary: Summary) -> list[str]:
    """The benchmarks whose outcomes are known."""
    return [name for shares in list(summary.outcomes.values())[:1] for name in shares]


def outcome_names(summary: Summary) -> list[Outcome]:
    """The outcomes that are stacked: the four, and `unjudged` where an output has no verdict."""
    unjudged = any(
        "unjudged" in shares for by_benchmark in summary.outcomes.values() for shares in by_benchmark.values()
    )
    return [name for name in OUTCOMES if name != "unjudged" or unjudged]


def stacked_heading(summary: Summary) -> str:
    """The outcomes in the order in which a cell gives them."""
    return " / ".join(OUTCOME_WORDS.get(name, name) for name in outcome_names(summary))


def stacked(shares: Mapping[str, Estimate | None]) -> str:
    """Shares of the outcomes in per cent, in the order of `OUTCOMES`; a dash where nothing was measured."""
    known = [each for name in OUTCOMES if (each := shares.get(name)) is not None]
    return " / ".join(f"{100 * each.value:.0f}" for each in known) or "–"


def _outcome_table(summary: Summary, names: Sequence[str]) -> Table:
    title = f"Outcomes in %: {stacked_heading(summary)}"
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left", title_style="")
    out.add_column("", overflow="fold")
    for name in names:
        out.add_column("\n".join(wrap(name, OUTCOME_WIDTH)), justify="right", no_wrap=True)
    for row, shares in summary.outcomes.items():
        out.add_row(_broken(row, ONE_LINE_NAME), *(stacked(shares.get(name, {})) for name in names))
    return out


def finding(summary: Summary) -> str | None:
    """One sentence on the effect of the prefix on trial; None where nothing was compared.

    The paired difference in recovery rate, or where there is none in ASR, to the first row of `AGAINST` that stands in
    the table and injects something else.
    """
    for other in _others(summary):
        cells = summary.compared_with(other)
        for name in ("recovery_rate", "asr_answer"):
            if (difference := cells.get(name)) is not None:
                return (
                    f"Finding: with {_said(HEADINGS[name], summary, other, difference, 'the same prompts and seeds')}"
                )
    return None


def finding_closed(summary: Summary) -> str | None:
    """The difference in ASR on prompts that close in both rows; None where all do, or nothing was compared."""
    for other in _others(summary):
        everywhere, closed = (
            cells.get("asr_answer") for cells in (summary.compared_with(other), summary.compared_closed(other))
        )
        if everywhere is not None and closed is not None and closed.n < everywhere.n:
            where = f"the {closed.n} of {everywhere.n} outputs whose thinking closes in both"
            return f"Closed in both: with {_said(HEADINGS['asr_answer'], summary, other, closed, where)}"
    return None


def _others(summary: Summary) -> list[str]:
    return [other for other in AGAINST if not summary.injects_like_trial(other)]


def _said(what: str, summary: Summary, other: str, difference: Estimate, where: str) -> str:
    value, low, high = (number("lift", each) for each in (difference.value, difference.low, difference.high))
    doubt = " and so may be none" if difference.low <= 0 <= difference.high else ""
    prefix = " | ".join(f"“{text}”" for text in summary.prefix.texts)
    return (
        f"{prefix}, {what} differs by {value} from {other} on {where}{doubt} "
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


def markdown_outcomes(summary: Summary) -> str:
    """The stacked outcomes in per cent, a benchmark a column, as GitHub Markdown."""
    names = benchmark_names(summary)
    lines = [f"| {stacked_heading(summary)}, % | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for row, shares in summary.outcomes.items():
        lines.append(f"| `{row}` | {' | '.join(stacked(shares.get(name, {})) for name in names)} |")
    return "\n".join(lines) + "\n"


def _broken(name: str, width: int) -> str:
    """A row's name on lines that leave room for the numbers, broken where its words are."""
    return "\n".join(line.replace("_ ", "_") for line in wrap(name.replace("_", "_ "), width))


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
