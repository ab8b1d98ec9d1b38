"""Generation tasks: one job per record, in four phases. Pure planning; nothing is decoded here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

from safethink import defenses
from safethink.benchmarks import Benchmark
from safethink.config import (
    DefenseConfig,
    EvalConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
)
from safethink.defenses import Needs, Rule
from safethink.defenses.effects import Extension
from safethink.defenses.inject_once import inject_once
from safethink.defenses.replayed import replayed
from safethink.evaluation.records import Key, Phase, Record
from safethink.evaluation.variants import TableRow
from safethink.prompts import Prompt
from safethink.tokens import Tokens

WATCH = "watch"
"""Row name of the pass in which the monitor only watches."""
NOTHING = "nothing"
"""Row name of rolling back (or stopping at a step) and going on with nothing injected."""


@dataclass(frozen=True, slots=True)
class Job:
    """One generation.

    Attributes:
        key: identity of its record.
        prompt: what is asked.
        rule: the defense that runs on it.
        prefixes: the portfolio, as token ids.
        start: the trace it starts from; None for the prompt's own beginning.
        injected: fingerprint of the portfolio.
        transferred: whether the portfolio was learned on another reasoner.
        defense: the section that the rule was built from, where it runs from the prompt's own beginning.
    """

    key: Key
    prompt: Prompt
    rule: Rule
    prefixes: tuple[tuple[int, ...], ...] = ()
    start: Tokens | None = None
    injected: str = ""
    transferred: bool = False
    defense: DefenseConfig | None = None

    def undisturbed(self, watched: Record) -> Record | None:
        """The record of this generation where its defense would leave alone what the monitor watched.

        Rows of one prompt share their seeds, so until a defense acts it writes what the reasoner writes undefended, and
        the monitor says the same of it. Most outputs of most rows are of this kind, and need not be generated again.

        Args:
            watched: the same prompt and sample, undefended, with the monitor watching.

        Returns:
            None where the defense would act, or is not known to wait for a score.
        """
        match self.defense:
            case GuardRefuseConfig(threshold=threshold, monitor_answer=False):
                heeded = (*watched.step_scores, *watched.answer_scores)
            case (
                ResampleOnlyConfig(threshold=threshold, monitor_answer=False, max_steered_steps=steps)
                | SafeThinkConfig(threshold=threshold, monitor_answer=False, max_steered_steps=steps)
            ):
                heeded = (*watched.step_scores[:steps], *(watched.answer_scores if steps else ()))
            case _:
                return None
        if watched.note or any(score < threshold for score in heeded):
            return None
        return watched.replace(
            phase=self.key.phase, row=self.key.row, injected=self.injected, transferred=self.transferred
        )


@dataclass(frozen=True, slots=True)
class InjectionSite:
    """A place in a trace where something may be injected.

    Attributes:
        benchmark: name of the prompt's benchmark.
        prompt: what is asked.
        start: the trace before it.
        sample: which of the prompt's places.
        proposed: at a drifted step, all steps up to and including it.
    """

    benchmark: str
    prompt: Prompt
    start: Tokens
    sample: int = 0
    proposed: tuple[Extension, ...] = ()

    @property
    def beginning(self) -> Tokens:
        """The trace before the first of its steps."""
        return self.start[: len(self.start) - sum(len(step.tokens) for step in self.proposed[:-1])]


def attack_benchmarks(benchmarks: Sequence[Benchmark]) -> list[Benchmark]:
    """The attack prompts: jailbreaks, or plain harmful requests where there are no jailbreaks."""
    for kind in ("jailbreak", "harmful"):
        chosen = only_kinds(benchmarks, kind)
        if chosen:
            return chosen
    return []


def attack_prompts(benchmarks: Sequence[Benchmark]) -> list[Prompt]:
    """The same, as one list."""
    return [prompt for benchmark in attack_benchmarks(benchmarks) for prompt in benchmark.prompts]


def only_kinds(benchmarks: Sequence[Benchmark], *kinds: str) -> list[Benchmark]:
    """The benchmarks cut down to prompts of these kinds; those with none left out."""
    return [cut for cut in (benchmark.only(*kinds) for benchmark in benchmarks) if cut.prompts]


def trial_row(rows: Sequence[TableRow]) -> TableRow | None:
    """The row that steers with the prefix on trial."""
    return next((row for row in rows if row.on_trial and isinstance(row.defense, SafeThinkConfig)), None)


def fires_below(config: EvalConfig) -> float:
    """The monitor's threshold: that of the row on trial, else of the first row that has one."""
    rows = (config.on_trial, *config.rows) if config.on_trial else config.rows
    thresholds = (defenses.build(row.defense).needs.threshold for row in rows)
    return next((each for each in thresholds if each is not None), SafeThinkConfig().threshold)


def guarded(rows: Sequence[TableRow], benchmarks: Sequence[Benchmark], samples: int) -> Iterator[Job]:
    """Every row on every prompt: the same prompts and seeds for all."""
    for row in rows:
        for benchmark in benchmarks:
            yield from _jobs("guarded", row, benchmark, samples)


def watched_benchmarks(benchmarks: Sequence[Benchmark]) -> list[Benchmark]:
    """Benchmarks of monitored rollouts: the attack prompts, and those that are harmless or only look harmful.

    Plain harmful requests beside jailbreaks are left out: nothing is injected into their traces later.
    """
    return attack_benchmarks(benchmarks) + only_kinds(benchmarks, "harmless", "borderline")


def watch(
    threshold: float, benchmarks: Sequence[Benchmark], samples: int = 1, monitor_answer: bool = False
) -> Iterator[Job]:
    """The reasoner undefended while the monitor scores each step: shows where it would fire.

    Args:
        threshold: where it would.
        benchmarks: the prompts; see `watched_benchmarks`.
        samples: runs per prompt.
        monitor_answer: whether the answers' steps are scored too.
    """
    watching = SafeThinkConfig(threshold=threshold, max_steered_steps=0, monitor_answer=monitor_answer)
    row = TableRow(WATCH, watching, defenses.build(watching))
    for benchmark in benchmarks:
        yield from _jobs("watch", row, benchmark, samples)


def depth(config: EvalConfig, trial: TableRow, benchmarks: Sequence[Benchmark]) -> Iterator[Job]:
    """The row on trial at every value of `max_steered_steps`, on the first attack prompts."""
    assert isinstance(trial.defense, SafeThinkConfig)
    for value in config.depth_curve:
        if value == trial.defense.max_steered_steps:
            continue  # Its own record says it already.
        defense = trial.defense.replace(max_steered_steps=value)
        row = replace(trial, name=depth_name(value), defense=defense, rule=defenses.build(defense))
        for benchmark in attack_benchmarks(benchmarks):
            yield from _jobs("depth", row, benchmark.first(config.depth_prompts))


def depth_name(max_steered_steps: int) -> str:
    """Row name of a point of the depth curve."""
    return f"max_steered_steps={max_steered_steps}"


def injected_once(row: TableRow, places: Sequence[InjectionSite]) -> Iterator[Job]:
    """The first prefix of a row injected at each place, where it stays, and no monitor from there on."""
    yield from _at_places("forced", row, _injection(keep_prefix=True), places, samples=1)


InjectionPhase: TypeAlias = Literal["recovery", "forced"]


def injections(
    phase: InjectionPhase,
    rows: Sequence[TableRow],
    places: Sequence[InjectionSite],
    samples: int,
    both_ways: bool = False,
) -> Iterator[Job]:
    """One injection at each place and no monitor from there on, for every row that steers with a prefix, and for none.

    The prefix stays in the trace where the row's defense keeps it, and leaves it where that drops it.

    Args:
        phase: `recovery` at drifted steps, `forced` at random ones.
        rows: the table's rows; those that cannot inject at a step are passed over.
        places: where.
        samples: seeds per place.
        both_ways: whether each row injects both ways.
    """
    nothing = TableRow(NOTHING, NoneConfig(), defenses.build(NoneConfig()))
    yield from _at_places(phase, nothing, nothing.rule, places, samples)
    for row in rows:
        if not (row.steers and row.portfolio):
            continue
        for dropped in (False, True) if both_ways else (row.drops_prefix,):
            rule = _injection(keep_prefix=not dropped)
            yield from _at_places(injection_phase(phase, dropped), row, rule, places, samples)


def _injection(keep_prefix: bool) -> Rule:
    return Rule("inject_once", partial(inject_once, keep_prefix=keep_prefix), Needs(scores=False))


def injection_phase(phase: InjectionPhase, dropped: bool) -> Phase:
    """The phase of injections whose prefix stays in the trace or is dropped."""
    if not dropped:
        return phase
    return "recovery_dropped" if phase == "recovery" else "forced_dropped"


def guarded_recovery(rows: Sequence[TableRow], places: Sequence[InjectionSite], samples: int) -> Iterator[Job]:
    """Every row that steers, from each drifted step on: its own resamples, limits and fallback.

    The steps up to there are those that drifted, so the defense fires where the monitor did.
    """
    for row in rows:
        if not row.steers:
            continue
        for place in places:
            rule = Rule(row.rule.name, partial(replayed, defense=row.rule, steps=place.proposed), row.rule.needs)
            for sample in range(samples):
                key = Key("recovery_guarded", row.name, place.benchmark, place.prompt.id, sample)
                injected = row.token_ids, place.beginning, row.fingerprint, row.transferred
                yield Job(key, place.prompt, rule, *injected)


def _at_places(phase: Phase, row: TableRow, rule: Rule, places: Sequence[InjectionSite], samples: int) -> Iterator[Job]:
    for place in places:
        for sample in range(samples):
            key = Key(phase, row.name, place.benchmark, place.prompt.id, place.sample * samples + sample)
            injected = row.token_ids[:1], place.start, row.fingerprint, row.transferred
            yield Job(key, place.prompt, rule, *injected)


def _jobs(phase: Phase, row: TableRow, benchmark: Benchmark, samples: int = 1) -> Iterator[Job]:
    for prompt in benchmark.prompts:
        for sample in range(samples):
            key = Key(phase, row.name, benchmark.name, prompt.id, sample)
            yield Job(key, prompt, row.rule, row.token_ids, None, row.fingerprint, row.transferred, row.defense)
