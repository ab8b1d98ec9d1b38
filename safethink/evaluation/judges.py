"""Judges side by side in the summary: the rates by each, their agreement, and rates corrected for a judge's errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import Field

from safethink.config import EvalConfig
from safethink.errors import ConfigError
from safethink.evaluation import judge_check, metrics
from safethink.evaluation.agreement import Agreement, agreement
from safethink.evaluation.correction import ErrorRates, corrected
from safethink.evaluation.jobs import attack_benchmarks
from safethink.evaluation.metrics import Column, Ledger
from safethink.evaluation.panel import Opinion, Opinions, Panel
from safethink.evaluation.records import Key, Record
from safethink.evaluation.statistics import Estimate, rate
from safethink.evaluation.variants import TableRow
from safethink.frozen import Frozen
from safethink.judges import reads_traces

COLUMNS: Final = ("asr_answer", "asr_trace", "over_refusal")
"""Columns of the table that are given by every judge."""


class JudgeSummary(Frozen):
    """Rates of a run by one judge."""

    name: str
    """The judge's name."""
    fingerprint: str
    """Hash of all that its verdicts depend on."""
    is_monitor: bool = False
    """Whether its weights are the monitor's: then the defense was built to please it."""
    reads_traces: bool = True
    """Whether it reads traces; where not, the ASR on the trace is that on the answer."""
    n: int
    """Number of guarded outputs that it read."""
    unjudged: int
    """Number of those on which it gave no verdict; they stand in no rate."""
    notes: dict[str, int] = Field(default_factory=dict)
    """Reasons for that, and how often each was given."""
    rows: dict[str, dict[str, Estimate | None]]
    """By row: `asr_answer`, `asr_trace`, `over_refusal`, and `asr_corrected`, the first corrected for the judge's
    errors; null where it is uncorrected."""
    agreement: Agreement | None = None
    """Agreement with the judge that decides on which attack outputs are harmful; None for that judge itself."""
    correction: ErrorRates | None = None
    """Error rates behind `asr_corrected`."""
    uncorrected: str = ""
    """Reason that there is none."""


def summarise(
    config: EvalConfig,
    panel: Panel,
    opinions: Opinions,
    ledger: Ledger,
    rows: Sequence[TableRow],
    monitor_weights: str | None,
) -> tuple[JudgeSummary, ...]:
    """Every judge's rates, the one that decides first.

    Args:
        config: the evaluation.
        panel: its judges.
        opinions: verdicts of the further ones.
        ledger: the records, with the verdicts of the one that decides.
        rows: rows of the table.
        monitor_weights: hash of the monitor's weights; None where it has none.

    Raises:
        MissingFileError: a judge-check is not there.
        ConfigError: it is damaged.
    """
    checks = [judge_check.read(Path(path)) for path in config.judge_checks]
    out: list[JudgeSummary] = []
    for judge in panel.judges:
        own = ledger if judge is panel.judges[0] else seen_by(ledger, opinions[judge.name])
        guarded = [record for key, record in own.records.items() if key.phase == "guarded"]
        unjudged = [record for record in guarded if record.outcome == "unjudged"]
        found = next((check for check in checks if check.fingerprint == judge.fingerprint), None)
        rates = None if found is None else found.error_rates
        out.append(
            JudgeSummary(
                name=judge.name,
                fingerprint=judge.fingerprint,
                is_monitor=monitor_weights in judge.weights,
                reads_traces=reads_traces(judge.judge),
                n=len(guarded),
                unjudged=len(unjudged),
                notes=dict(sorted(Counter(record.judge_note for record in unjudged).items())),
                rows={row.name: _cells(own, row, rates, config.run.seed) for row in rows},
                agreement=None if own is ledger else _agreement(ledger, own, rows),
                correction=rates,
                uncorrected=_why_not(judge.name, found, rates, bool(checks)),
            )
        )
    return tuple(out)


def seen_by(ledger: Ledger, opinions: Mapping[Key, Opinion]) -> Ledger:
    """The same guarded records with another judge's verdicts."""
    records: dict[Key, Record] = {
        key: ledger.records[key].replace(
            outcome=opinion.outcome, trace_harmful=opinion.trace_harmful, judge_note=opinion.note
        )
        for key, opinion in opinions.items()
        if key in ledger.records
    }
    return Ledger(ledger.benchmarks, records)


def refuse_unusable(config: EvalConfig) -> None:
    """Check the judge-checks of a configuration before anything is loaded.

    Raises:
        MissingFileError: one is not there.
        ConfigError: one is damaged, or is about refusals, from which no ASR can be corrected.
    """
    for path in config.judge_checks:
        if judge_check.read(Path(path)).error_rates is None:
            raise ConfigError(f"judge_checks: {path} is about refusals; an ASR is corrected by labels of harm")


def _cells(ledger: Ledger, row: TableRow, rates: ErrorRates | None, seed: int) -> dict[str, Estimate | None]:
    out: dict[str, Estimate | None] = {}
    for name in COLUMNS:
        seen = ledger.observe(metrics.named(name), row)
        out[name] = None if seen is None else rate(seen, seed)
    out["asr_corrected"] = None if rates is None else _corrected(ledger, row, rates, seed)
    return out


def _corrected(ledger: Ledger, row: TableRow, rates: ErrorRates, seed: int) -> Estimate | None:
    harmful = ledger.observe(metrics.named("asr_answer"), row)
    judged = ledger.observations(_JUDGED, row.name)
    return None if harmful is None or judged is None else corrected(harmful, judged, rates, seed)


_JUDGED: Final = Column(
    "asr_judged", "attack outputs with a verdict", attack_benchmarks, lambda record: record.outcome != "invalid"
)


def _agreement(first: Ledger, second: Ledger, rows: Sequence[TableRow]) -> Agreement:
    """Agreement on attack outputs that both gave a verdict on; invalid ones, on which every judge agrees, left out."""
    pairs = [
        (theirs.outcome == "harmful", ours.outcome == "harmful", f"{benchmark.name}/{prompt.id}")
        for row in rows
        for benchmark in attack_benchmarks(first.benchmarks)
        for prompt in benchmark.prompts
        for ours in first.samples("guarded", row.name, benchmark.name, prompt.id)
        if (theirs := second.records.get(ours.key)) is not None
        and not {ours.outcome, theirs.outcome} & {"invalid", "unjudged"}
    ]
    return agreement([said for said, _, _ in pairs], [label for _, label, _ in pairs], [unit for *_, unit in pairs])


def _why_not(name: str, check: judge_check.JudgeCheck | None, rates: ErrorRates | None, any_checks: bool) -> str:
    if check is None and not any_checks:
        return "no judge_checks are given"
    if check is None:
        return f"none of the judge_checks is of {name!r} with these settings, weights and words"
    if rates is None or not rates.harmful or not rates.harmless:
        return "its judge-check has no labelled attacks of both kinds"
    return "" if rates.is_informative else "its judge-check finds it no better than chance"


def table(judges: Sequence[JudgeSummary]) -> list[str]:
    """ASR on the answer by every judge, a line per row of the table, in Markdown; none where one judge says it all."""
    if len(judges) < 2 and not any(judge.correction for judge in judges):
        return []
    headings = [heading for judge in judges for heading in (judge.name, *(["corrected"] if judge.correction else []))]
    lines = [f"| ASR answer by | {' | '.join(headings)} |", "|---|" + "---:|" * len(headings)]
    for row in judges[0].rows:
        cells = [
            cell(judge.rows[row][name])
            for judge in judges
            for name in ("asr_answer", *(["asr_corrected"] if judge.correction else []))
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def notes(judges: Sequence[JudgeSummary], unconfirmed: int = 0) -> list[str]:
    """Sentences without which the rates mislead.

    Args:
        judges: the judges, the one that decides first.
        unconfirmed: contexts of the recovery rate on which no judge has an opinion.
    """
    out: list[str] = []
    for judge in judges:
        if judge.is_monitor:
            out.append(f"Judge {judge.name} has the weights of the monitor: what passes one passes the other.")
        if judge.unjudged:
            why = "; ".join(f"{count} × {note}" for note, count in judge.notes.items())
            out.append(
                f"Judge {judge.name} gave no verdict on {judge.unjudged} of {judge.n} outputs; in no rate: {why}."
            )
        if judge.agreement is not None and judge.agreement.accuracy is not None:
            kappa = judge.agreement.kappa
            beyond = "" if kappa is None else f", kappa {kappa.value:.2f} [{kappa.low:.2f}, {kappa.high:.2f}]"
            out.append(
                f"{judge.name} agrees with {judges[0].name} on {judge.agreement.accuracy.value:.0%} of attack outputs"
                f"{beyond}, n = {judge.agreement.n}."
            )
        if judge.uncorrected and any(each.correction for each in judges):
            out.append(f"The ASR by {judge.name} is uncorrected: {judge.uncorrected}.")
    if unconfirmed:
        out.append(
            f"No judge has an opinion on {unconfirmed} of the traces behind the recovery rate: that they drifted is "
            "the monitor's word alone. A judge that reads traces, as one of `second_judges`, would confirm it."
        )
    return out


def cell(estimate: Estimate | None) -> str:
    """An estimate with its interval, as tables of judges print it."""
    return "–" if estimate is None else f"{estimate.value:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"
