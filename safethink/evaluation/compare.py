"""Two prefixes side by side: the same prompts and seeds, paired differences, and McNemar's exact test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import Field
from rich import box
from rich.table import Table
from scipy.stats import binomtest

from safethink import benchmarks, defenses, files, prefix
from safethink.config import EvalConfig
from safethink.evaluation import folder, holdout, metrics, records, runner
from safethink.evaluation.metrics import Ledger
from safethink.evaluation.plan import SIDE_A, SIDE_B, paired_config
from safethink.evaluation.statistics import Estimate, Observations, mean, rate
from safethink.evaluation.summary import comparison_name
from safethink.evaluation.table import HEADINGS, interval, number
from safethink.evaluation.worker import GuardedReasoner, load_reasoner
from safethink.frozen import Frozen

COMPARISON: Final = "comparison.json"
SIGNED: Final = "lift"
"""The column whose numbers are printed with their sign, as differences are."""


class Side(Frozen):
    """One of the two prefixes."""

    path: str
    """Name or folder it was loaded from."""
    texts: tuple[str, ...]
    """The portfolio."""
    test_evaluations: int
    """Number of evaluations of it and its lineage on `test`, this time included."""


class McNemar(Frozen):
    """McNemar's exact test of a yes or no on paired prompts (McNemar, Psychometrika 12, 1947).

    It takes prompts as independent; the interval of the paired difference does not.
    """

    only_a: int
    """Prompts with a yes on A alone."""
    only_b: int
    """Prompts with a yes on B alone."""
    p_value: float
    """Two-sided, of as many or more on one side where a yes is as likely on either."""


class PairedColumn(Frozen):
    """A column of the table on both sides."""

    a: Estimate
    b: Estimate
    difference: Estimate
    """A minus B, paired."""
    test: McNemar | None
    """Of a column that is a yes or no per prompt, seen once per prompt; None of any other."""


class Comparison(Frozen):
    """Contents of comparison.json."""

    a: Side
    b: Side
    columns: dict[str, PairedColumn]
    """By name, of those that both sides have."""
    columns_closed: dict[str, PairedColumn] = Field(default_factory=dict)
    """The same of what the outputs were, on prompts whose thinking closed on both sides."""


def compare(a: str, b: str, config: EvalConfig, out: Path, reasoner: GuardedReasoner | None = None) -> Comparison:
    """Evaluate two prefixes pairwise, or take up a comparison where it was interrupted.

    Args:
        a: built-in name, artifact folder or place on the hub, or `text:...`.
        b: the other.
        config: an evaluation, for its prompts, its reasoner and the defense of its row on trial.
        out: folder of the run; an evaluation's, with `comparison.json` beside.
        reasoner: a reasoner and monitor that are already loaded; None loads those of `config.run`.

    Raises:
        SafeThinkError: what `runner.evaluate` raises.
    """
    paired = paired_config(a, b, config)
    reasoner = reasoner or load_reasoner(paired)
    summary = runner.evaluate(paired, out, reasoner)
    ledger = Ledger(
        tuple(benchmarks.load(benchmark, paired.world) for benchmark in paired.benchmarks),
        {record.key: record for record in records.read(out / folder.RECORDS)},
    )
    on_trial, pair = prefix.load(b), comparison_name(SIDE_A, SIDE_B)
    drops_prefix = defenses.drops_prefix(paired.rows[0].defense)
    comparison = Comparison(
        a=Side(path=a, texts=summary.prefix.texts, test_evaluations=summary.prefix.test_evaluations),
        b=Side(
            path=b,
            texts=on_trial.texts,
            test_evaluations=holdout.count_evaluation(paired.replace(prefix=b), on_trial),
        ),
        columns=_columns(summary.comparisons[pair], ledger, drops_prefix, paired.run.seed),
        columns_closed=_columns(
            summary.comparisons_closed[pair], ledger.closed_in_both(SIDE_A, SIDE_B), drops_prefix, paired.run.seed
        ),
    )
    files.write_text(out / COMPARISON, comparison.model_dump_json(indent=2) + "\n")
    return comparison


def mcnemar(a: Observations, b: Observations) -> McNemar | None:
    """Test a yes or no that was seen once per unit on both sides; None for anything else.

    Raises:
        ValueError: the two sides are not about the same units in the same order.
    """
    if a.units != b.units:
        raise ValueError("a paired test needs the same units on both sides, in the same order")
    if not (a.is_binary and b.is_binary) or len(set(a.units)) < len(a.units):
        return None
    only_a = int((a.numerators > b.numerators).sum())
    only_b = int((b.numerators > a.numerators).sum())
    discordant = only_a + only_b
    p_value = float(binomtest(only_a, discordant, 0.5).pvalue) if discordant else 1.0
    return McNemar(only_a=only_a, only_b=only_b, p_value=p_value)


def table(comparison: Comparison) -> Table:
    """The comparison for a terminal."""
    a, b = comparison.a, comparison.b
    caption = f"A: {_told(a)}\nB: {_told(b)}\np: McNemar's exact test, two-sided, prompts taken as independent"
    out = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    for heading in ("", "A", "B", "A − B", "95 % interval", "n", "only A", "only B", "p"):
        out.add_column(heading, justify="right" if heading else "left")
    columns = [(HEADINGS[name], name, column) for name, column in comparison.columns.items()]
    columns += [(f"{HEADINGS[name]}, closed in both", name, each) for name, each in comparison.columns_closed.items()]
    for heading, name, column in columns:
        difference, test = column.difference, column.test
        out.add_row(
            heading,
            number(name, column.a.value),
            number(name, column.b.value),
            number(SIGNED, difference.value),
            interval(SIGNED, difference),
            str(difference.n),
            *(("", "", "") if test is None else (str(test.only_a), str(test.only_b), f"{test.p_value:.3g}")),
        )
    return out


def _columns(
    differences: Mapping[str, Estimate | None], ledger: Ledger, drops_prefix: bool, seed: int
) -> dict[str, PairedColumn]:
    out: dict[str, PairedColumn] = {}
    for name, difference in differences.items():
        column = metrics.named(name)
        a, b = (ledger.observations(column, row, drops_prefix) for row in (SIDE_A, SIDE_B))
        if a is None or b is None or difference is None:
            continue
        of_a, of_b = ((rate if column.is_rate else mean)(side, seed) for side in (a, b))
        if of_a is not None and of_b is not None:
            out[name] = PairedColumn(a=of_a, b=of_b, difference=difference, test=mcnemar(a, b))
    return out


def _told(side: Side) -> str:
    texts = " | ".join(repr(text) for text in side.texts)
    return f"{side.path} {texts}, evaluated on `test` {side.test_evaluations} time(s)"
