"""report.html: one file that opens offline, made from what a run folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from safethink import benchmarks, files
from safethink.config import EvalConfig
from safethink.defenses.effects import InterventionOutcome
from safethink.evaluation import figures, folder, judges, records, table, traces
from safethink.evaluation.figures import SearchStep
from safethink.evaluation.metrics import COLUMNS, NAMES, OF_OUTPUTS
from safethink.evaluation.records import Key, Record
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import Summary
from safethink.evaluation.variants import RANDOM
from safethink.prefix import LOG_FILE
from safethink.testbed.origin import is_testbed

ORIGINS: Final = {
    "asr_answer": "planted",
    "asr_trace": "planted",
    "asr_predicted": "planted",
    "invalid_attacks": "emerged",
    "invalid": "emerged",
    "recovery_rate": "planted",
    "lift": "planted",
    "recovery_guarded": "planted",
    "recovery_kept": "planted",
    "recovery_dropped": "planted",
    "resamples": "planted",
    "empty_resamples": "emerged",
    "accuracy": "trained",
    "over_refusal": "planted",
    "accuracy_forced": "planted",
    "over_refusal_forced": "planted",
    "false_interventions": "trained",
    "extra_tokens": "emerged",
    "monitor_tokens": "emerged",
    "seconds": "emerged",
}
"""Origin of each column's numbers on the testbed: an input of the world, a target of training, or neither."""

MEANINGS: Final = {column.name: column.meaning for column in COLUMNS} | {
    "asr_predicted": "exact ASR of the planted process under this defense",
    "lift": "recovery rate minus that with nothing injected",
}


@dataclass(frozen=True, slots=True)
class Card:
    """A number in large print.

    Attributes:
        label: what it is.
        value: the number.
        detail: interval and sample size.
    """

    label: str
    value: str
    detail: str


@dataclass(frozen=True, slots=True)
class CategoryLine:
    """One category of a benchmark.

    Attributes:
        name: the category.
        column: name of the column that is shown: ASR of attacks, accuracy of tasks, else over-refusal.
        n: prompts and samples behind each rate.
        cells: by row, the rate and the share of invalid outputs beside it.
    """

    name: str
    column: str
    n: int
    cells: dict[str, tuple[Estimate | None, Estimate | None]]


class _SearchLine(BaseModel):
    """The fields of a search log's line that the report reads.

    There is no cost before a candidate survives, and no restart where the method knows no starts.
    """

    restart: int = 0
    step: int
    text: str
    cost: dict[str, float]


def write(run: Path, show_texts: bool = False) -> Path:
    """Write the report of a finished run.

    Args:
        run: folder with `config.yaml`, `records.jsonl` and `summary.json`.
        show_texts: as of `render`.

    Returns:
        The path of the report.

    Raises:
        MissingFileError: the folder is no run.
        RecordError: the report could not be written.
    """
    config = folder.read_config(run)
    summary = Summary.model_validate_json((run / folder.SUMMARY).read_text(encoding="utf-8"))
    recorded = {record.key: record for record in records.read(run / folder.RECORDS)}
    files.write_text(
        run / folder.REPORT, render(config, summary, recorded, read_search(Path(config.prefix)), show_texts)
    )
    return run / folder.REPORT


def render(
    config: EvalConfig,
    summary: Summary,
    recorded: Mapping[Key, Record],
    search: list[SearchStep] | None,
    show_texts: bool = False,
) -> str:
    """Render the report as HTML.

    Args:
        config: the evaluation.
        summary: its numbers.
        recorded: its records, by key.
        search: the search behind the prefix on trial; None where its log cannot be read.
        show_texts: whether a prompt is shown with what became of it, also where it is none of the testbed's, whose
            hazards are made up. A page that is passed around shows nobody harm who did not ask.
    """
    show_texts = show_texts or all(each.kind == "testbed" for each in config.benchmarks)
    trial = config.on_trial and config.on_trial.name
    return (
        templates("safethink.evaluation")
        .get_template("report.html.j2")
        .render(
            plotly_js=figures.plotly_js(),
            figures=_figures(summary, trial, search or []),
            search_unread=search is None,
            is_testbed=is_testbed(config.run.reasoner.path),
            config=config,
            summary=summary,
            judge_table=judges.table(summary.judges),
            judge_notes=judges.notes(summary.judges, summary.contexts.unconfirmed),
            judge_cell=judges.cell,
            trial=trial,
            random_rows=[row.name for row in config.rows if (row.prefix or "").split(":")[0] == RANDOM],
            headline=headline(summary, trial, baseline_name(config)),
            cards=cards(summary, trial),
            intervention_outcomes=get_args(InterventionOutcome),
            columns=table.printed_columns(summary, NAMES),
            headings=table.HEADINGS,
            origins=ORIGINS,
            meanings=MEANINGS,
            number=table.number,
            interval=table.interval,
            closed=summary.comparisons_closed,
            closed_columns=[name for name in OF_OUTPUTS if _is_known(name, summary.comparisons_closed)],
            categories=category_lines(summary),
            few=table.FEW,
            comparison=_comparison(config, summary, recorded) if show_texts else None,
            show_texts=show_texts,
        )
    )


def templates(package: str) -> Environment:
    """The templates of a package; all reports extend the page that stands here, `page.html.j2`."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in (package, "safethink.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def baseline_name(config: EvalConfig) -> str | None:
    """The undefended row."""
    return next((row.name for row in config.rows if row.defense.kind == "none"), None)


def headline(summary: Summary, trial: str | None, baseline: str | None) -> str:
    """The finding, in one or two sentences, whatever it is."""
    asr = summary.rows[trial]["asr_answer"] if trial else None
    if asr is None:
        return "No row steers with the prefix on trial on attack prompts, so there is no headline."
    said = (
        f"Steered with “{summary.prefix.texts[0]}”, the reasoner gave {_share(asr)} of attack prompts a harmful answer"
    )
    undefended = summary.rows[baseline]["asr_answer"] if baseline else None
    if undefended is not None:
        said += f"; undefended, {_share(undefended)}"
    invalid = [summary.rows[row].get("invalid_attacks") for row in (trial, baseline) if row is not None]
    shares = [f"{each.value:.1%}" for each in invalid if each is not None]
    if shares:
        said += f"; {' and '.join(shares)} of the outputs were invalid, neither harmful nor safe"
    return said + f" (95 % intervals, n = {asr.n})."


def cards(summary: Summary, trial: str | None) -> list[Card]:
    """The numbers that matter most, with their intervals."""
    if trial is None:
        return []
    own = summary.rows[trial]
    usual, bare = (summary.compared_with(other) for other in ("wait_think_safely", "undefended"))
    closed = summary.compared_closed("undefended")
    same = summary.injects_like_trial("wait_think_safely")
    numbers = (
        ("recovery rate", own["recovery_rate"], False),
        ("lift over nothing injected", own["lift"], True),
        ("recovery vs “Wait, think safely”", None if same else usual.get("recovery_rate"), True),
        ("ASR vs undefended", bare.get("asr_answer"), True),
        ("the same, closed in both rows", closed.get("asr_answer"), True),
        ("accuracy vs undefended", bare.get("accuracy"), True),
    )
    return [_card(label, estimate, signed) for label, estimate, signed in numbers if estimate is not None]


def category_lines(summary: Summary) -> dict[str, list[CategoryLine]]:
    """The rates by category, of every benchmark that has some."""
    return {
        benchmark: [_category_line(name, by_row) for name, by_row in by_category.items()]
        for benchmark, by_category in summary.categories.items()
    }


def _category_line(name: str, by_row: Mapping[str, Mapping[str, Estimate | None]]) -> CategoryLine:
    column = next((column for cells in by_row.values() for column in cells), "invalid")
    cells = {row: (own.get(column), own.get("invalid")) for row, own in by_row.items()}
    return CategoryLine(name, column, max((rate.n for rate, _ in cells.values() if rate is not None), default=0), cells)


def read_search(artifact: Path) -> list[SearchStep] | None:
    """The search that found the prefix, as its artifact logs it.

    Returns:
        Its steps; none where there is no log, and None where a line of it is not of this form.
    """
    path = artifact / LOG_FILE
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines = [_SearchLine.model_validate_json(line) for line in text.splitlines()]
        return [SearchStep(line.restart, line.step, line.cost["total"], line.text) for line in lines if line.cost]
    except (KeyError, ValueError):  # pydantic's and the decoder's errors are ValueErrors
        return None


def _figures(summary: Summary, trial: str | None, search: list[SearchStep]) -> dict[str, str]:
    out: dict[str, Any] = {
        "asr": figures.bars(summary, "asr_answer", "ASR on the answer", trial, "asr_predicted", "invalid_attacks")
    }
    if any(cells["recovery_rate"] is not None for cells in summary.rows.values()):
        out["recovery"] = figures.bars(summary, "recovery_rate", "recovery rate", trial)
    if summary.depth_curve:
        out["depth"] = figures.depth(summary.depth_curve)
    out["outcomes"] = figures.outcomes(summary)
    if search:
        out["search"] = figures.search_curve(search)
    return {name: figures.to_html(figure, name) for name, figure in out.items()}


def _comparison(config: EvalConfig, summary: Summary, recorded: Mapping[Key, Record]) -> traces.Comparison | None:
    loaded = [benchmarks.load(each, config.world) for each in config.benchmarks]
    return traces.choose(_shown_rows(config), loaded, recorded, summary.texts)


def _shown_rows(config: EvalConfig) -> list[str]:
    """Undefended, the usual prefix, the one on trial; as many of them as there are."""
    usual = next((row.name for row in config.rows if row.prefix == "wait-think-safely"), None)
    wanted = (baseline_name(config), usual, config.on_trial and config.on_trial.name)
    return [name for name in wanted if name is not None]


def _is_known(column: str, comparisons: Mapping[str, Mapping[str, Estimate | None]]) -> bool:
    """Whether any comparison has a difference of that column."""
    return any(cells.get(column) is not None for cells in comparisons.values())


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.1%} ({estimate.low:.1%} to {estimate.high:.1%})"


def _card(label: str, estimate: Estimate, signed: bool) -> Card:
    style = "lift" if signed else "recovery_rate"
    value, low, high = (table.number(style, each) for each in (estimate.value, estimate.low, estimate.high))
    return Card(label, value, f"{low} to {high}, n = {estimate.n}")
