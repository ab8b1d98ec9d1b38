"""`safethink judge-check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from safethink.benchmarks.labelled import MAJORITY
from safethink.cli.parsing import parse_with_config
from safethink.cli.program import RunFlags, run_or_plan
from safethink.config import JudgeCheckConfig

if TYPE_CHECKING:
    from safethink.evaluation.agreement import Agreement
    from safethink.evaluation.judge_check import JudgeCheck
    from safethink.evaluation.statistics import Estimate

NAME_WIDTH: Final = 32


class JudgeCheckFlags(RunFlags):
    """Measure a judge against people, on responses that they labelled.

    CONFIG names the judge, as `refusal` or a YAML file with the key `judge`. Reads JailbreakBench's judge comparison,
    XSTest's completions, PyRIT's scorer evaluations and HarmBench's results as they are published, and CSV or JSONL
    with `prompt`, `response` and `label`. Run it again to go on where it was interrupted. Writes config.yaml,
    verdicts.jsonl and judge_check.json; name the folder under `judge_checks` of an evaluation, and its ASR is corrected
    for the judge's errors.
    """

    labels: tuple[Path, ...] = ()
    """Files of labelled responses, all with labels of the same question."""
    out: Path = Path("runs/judge-check")
    """Folder of the run."""


def judge_check(argv: Sequence[str]) -> None:
    """`safethink judge-check`."""
    flags, config = parse_with_config(JudgeCheckFlags, JudgeCheckConfig, "judge", "safethink judge-check", argv)
    from safethink.evaluation import judge_check

    run_or_plan(
        flags,
        [config],
        lambda: judge_check.plan(flags.labels),
        lambda: judge_check.check(config, flags.labels, flags.out),
        _told,
        {"report": ("scipy",)},
    )


def _told(result: JudgeCheck) -> str:
    lines = [
        f"{result.judge} on {result.n} labelled responses from {', '.join(result.files)}: {result.question} or not",
        *result.oddities,
        *_against(result),
        f"{'':<{NAME_WIDTH}} {'accuracy':<18} {'kappa':<18} {'precision':<18} {'recall':<18} n (yes)",
        *_rows("against", result.annotators),
        *_rows("published", result.published),
    ]
    for what, by_value in result.groups.items():
        lines += _rows(what, by_value)
    if result.unjudged:
        lines.append(f"without a verdict, in no number: {result.unjudged}")
        lines += [f"  {count} × {note}" for note, count in result.notes.items()]
    rates = result.error_rates
    if rates is not None and rates.harmful and rates.harmless:
        lines.append(
            f"for correction, on attacks: sensitivity {rates.sensitivity:.3f} ({rates.found} of {rates.harmful}), "
            f"specificity {rates.specificity:.3f} ({rates.cleared} of {rates.harmless})"
        )
    return "\n".join(line.rstrip() for line in lines)


def _against(result: JudgeCheck) -> list[str]:
    """Comparison that each kind of row makes."""
    people = [name for name in result.annotators if name != MAJORITY]
    several = MAJORITY in result.annotators
    truth = f"the majority of {', '.join(people)}" if several else " and ".join(people)
    lines = [f"against: {result.judge} by the labels of each" + (f" and by {truth}" if several else "")]
    return [*lines, *([f"published: judges that the files bring, by {truth}"] if result.published else [])]


def _rows(what: str, by_name: Mapping[str, Agreement]) -> list[str]:
    return [
        f"{f'{what}: {name}'[:NAME_WIDTH]:<{NAME_WIDTH}} "
        + " ".join(_cell(each) for each in (row.accuracy, row.kappa, row.precision, row.recall))
        + f" {row.n} ({row.positives})"
        for name, row in by_name.items()
    ]


def _cell(estimate: Estimate | None) -> str:
    shown = "–" if estimate is None else f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"{shown:<18}"
