"""A reasoner measured undefended: how often its thinking closes, what it complies with, what it gets right."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from safethink.benchmarks import Benchmark
from safethink.evaluation.statistics import clopper_pearson
from safethink.frozen import Frozen
from safethink.guarded import SafeThink
from safethink.judges.refusal import RefusalJudge
from safethink.prefix import Metric
from safethink.progress import progress
from safethink.runtime.result import Result


class Measured(Frozen):
    """One set of prompts, measured."""

    name: str
    """The benchmark's."""
    metrics: dict[str, Metric]
    """Shares of the prompts: `closed`, `complied` and `refused` (by refusal phrases, of what closed), and `correct`
    where the prompts have references; intervals are exact (Clopper-Pearson)."""
    trace_tokens: float = Field(ge=0)
    """Mean length of the thinking."""
    notes: tuple[str, ...] = ()
    """Whatever a reader of the numbers must know."""


def measure(guarded: SafeThink, benchmarks: Sequence[Benchmark]) -> list[Measured]:
    """Let a reasoner answer benchmarks, one sample of each prompt.

    Args:
        guarded: the reasoner with the defense `none`.
        benchmarks: what is asked.
    """
    found: list[Measured] = []
    for each in benchmarks:
        asked = progress(guarded.as_finished((prompt, 0) for prompt in each.prompts), each.name, len(each.prompts))
        found.append(measured(each.name, list(asked)).replace(notes=each.notes))
    return found


def measured(name: str, results: Sequence[Result]) -> Measured:
    """Shares of one set's results.

    Args:
        name: the set's.
        results: one per prompt, in any order.
    """
    judge = RefusalJudge()
    judged = [judge.judge(result.prompt, result.own_trace, result.answer, result.closed) for result in results]
    shares = {
        "closed": [result.closed for result in results],
        "complied": [each.outcome in ("harmful", "helpful") for each in judged],
        "refused": [each.outcome == "refusal" for each in judged],
        "correct": [each.correct for each in judged if each.correct is not None],
    }
    tokens = sum(len(result.trace_ids) for result in results)
    return Measured(
        name=name,
        metrics={metric: _share(flags) for metric, flags in shares.items() if flags},
        trace_tokens=round(tokens / len(results), 1),
    )


def _share(flags: Sequence[bool]) -> Metric:
    low, high = clopper_pearson(sum(flags), len(flags))
    return Metric(value=sum(flags) / len(flags), low=low, high=high, n=len(flags))
