"""Traces side by side: the same prompt undefended, under the usual prefix, and under the one on trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from safethink.benchmarks import Benchmark
from safethink.evaluation.jobs import attack_benchmarks
from safethink.evaluation.records import InterventionRecord, Key, Record, placed
from safethink.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a shown trace.

    Attributes:
        kind: `own` words of the reasoner; words `forced` in and kept; words `removed` again once the step behind them
            was accepted; a `note` on what was dropped.
        text: what it says.
    """

    kind: Literal["own", "forced", "removed", "note"]
    text: str


@dataclass(frozen=True, slots=True)
class ShownTrace:
    """One column of the comparison.

    Attributes:
        row: name of the row.
        outcome: what the judge said.
        pieces: the trace.
        answer: the answer.
        folded: whether a reader must ask for it: a trace or an answer that the judge calls harmful, or that nobody can
            tell.
    """

    row: str
    outcome: str
    pieces: tuple[Piece, ...]
    answer: str
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prompt and what became of it under several rows."""

    prompt: str
    traces: tuple[ShownTrace, ...]


def choose(
    rows: Sequence[str],
    benchmarks: Sequence[Benchmark],
    records: Mapping[Key, Record],
    texts: Mapping[str, tuple[str, ...]],
) -> Comparison | None:
    """Take the first attack prompt that went wrong in the first row and was intervened on in all others.

    A fixed rule, so that nobody picks the example; where no prompt meets it, the first one is shown.

    Args:
        rows: which rows, the undefended one first.
        benchmarks: where the prompts are.
        records: of the run.
        texts: what each row injects.
    """
    candidates = list(_candidates(rows, benchmarks, records))
    if not rows or not candidates:
        return None
    telling = (each for each in candidates if _is_telling(each[1]))
    prompt, found = next(telling, candidates[0])
    return Comparison(prompt.text, tuple(show(record, texts.get(record.row, ())) for record in found))


def show(record: Record, portfolio: tuple[str, ...]) -> ShownTrace:
    """Cut a record into pieces: its spans, and a note wherever a step was dropped; the answer's notes come last."""
    dropped = placed(record.interventions)
    pieces: list[Piece] = []
    for span in record.spans:
        while dropped and dropped[0][0] <= span.start:
            pieces += _notes(dropped.pop(0)[1], portfolio, kept=span.forced)
        pieces.append(Piece("forced" if span.forced else "own", span.text.replace("\n\n", "\n")))
    for _, late in dropped:
        pieces += _notes(late, portfolio, kept=True)
    for answered in (each for each in record.interventions if each.where == "answer"):
        pieces += _notes(answered, portfolio, kept=False)
    folded = record.trace_harmful or record.outcome in ("harmful", "invalid")
    return ShownTrace(record.row, record.outcome, tuple(pieces), record.answer, folded)


def _notes(intervention: InterventionRecord, portfolio: tuple[str, ...], kept: bool) -> list[Piece]:
    """Description of one intervention; the injected words too, where the trace no longer has them."""
    tries = f"{intervention.resamples} {'try' if intervention.resamples == 1 else 'tries'}"
    place = "" if intervention.where == "trace" else "of the answer "
    said = f"step {intervention.step + 1} {place}dropped (score {intervention.score_before:+.2f})"
    if intervention.dropped_steps:
        said += f" with {intervention.dropped_steps} more before it"
    if intervention.outcome == "refused":
        said += ", refused"
    elif intervention.score_after is not None:
        is_taken = intervention.outcome in ("recovered", "rolled_back")
        is_empty = intervention.outcome == "empty"
        verb = "passed" if is_taken else "kept though it says nothing" if is_empty else "kept though failing"
        said += f"; {verb} after {tries} (score {intervention.score_after:+.2f})"
    pieces = [Piece("note", said)]
    if intervention.prefix is not None and not kept:
        pieces.append(Piece("removed", portfolio[intervention.prefix]))
    return pieces


def _candidates(
    rows: Sequence[str], benchmarks: Sequence[Benchmark], records: Mapping[Key, Record]
) -> Iterator[tuple[Prompt, list[Record]]]:
    for benchmark in attack_benchmarks(benchmarks):
        for prompt in benchmark.prompts:
            found = [records.get(Key("guarded", row, benchmark.name, prompt.id, 0)) for row in rows]
            present = [record for record in found if record is not None]
            if len(present) == len(rows):
                yield prompt, present


def _is_telling(found: Sequence[Record]) -> bool:
    return found[0].outcome == "harmful" and all(record.interventions for record in found[1:])
