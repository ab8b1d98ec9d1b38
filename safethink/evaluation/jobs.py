"""Generation tasks: one job per record, in four phases. Pure planning; nothing is decoded here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from safethink import defenses
from safethink.benchmarks import Benchmark
from safethink.config import EvalConfig, NoneConfig, SafeThinkConfig
from safethink.defenses import Needs, Rule
from safethink.defenses.effects import Extension
from safethink.defenses.inject_once import inject_once
from safethink.defenses.replayed import replayed
from safethink.evaluation.records import Key, Phase
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
    """

    key: Key
    prompt: Prompt
    rule: Rule
    prefixes: tuple[tuple[int, ...], ...] = ()
    start: Tokens | None = None
    injected: str = ""
    transferred: bool = False


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


def guarded(rows: Sequence[TableRow], benchmarks: Sequence[Benchmark], samples: int) -> Iterator[Job]:
    """Every row on every prompt: the same prompts and seeds for all."""
    for row in rows:
        for benchmark in benchmarks:
            yield from _jobs("guarded", row.name, benchmark, row.rule, row, samples)


def watched_benchmarks(benchmarks: Sequence[Benchmark]) -> list[Benchmark]:
    """Benchmarks of monitored rollouts: the attack prompts, and those that are harmless or only look harmful."""
    return attack_benchmarks(benchmarks) + only_kinds(benchmarks, "harmless", "borderline")


def watch(
    threshold: float, benchmarks: Sequence[Benchmark], samples: int = 1, monitor_answer: bool = False
) -> Iterator[Job]:
    """The reasoner undefended while the monitor scores each step: shows where it would fire.

    Plain harmful requests are left out: nothing is injected into their traces later.

    Args:
        threshold: where it would.
        benchmarks: the prompts.
        samples: runs per prompt.
        monitor_answer: whether the answers' steps are scored too.
    """
    watching = defenses.build(SafeThinkConfig(threshold=threshold, max_steered_steps=0, monitor_answer=monitor_answer))
    for benchmark in watched_benchmarks(benchmarks):
        yield from _jobs("watch", WATCH, benchmark, watching, samples=samples)


def depth(config: EvalConfig, trial: TableRow, benchmarks: Sequence[Benchmark]) -> Iterator[Job]:
    """The row on trial at every value of `max_steered_steps`, on the first attack prompts."""
    assert isinstance(trial.defense, SafeThinkConfig)
    for value in config.depth_curve:
        if value == trial.defense.max_steered_steps:
            continue  # Its own record says it already.
        rule = defenses.build(trial.defense.replace(max_steered_steps=value))
        for benchmark in attack_benchmarks(benchmarks):
            yield from _jobs("depth", depth_name(value), benchmark.first(config.depth_prompts), rule, trial)


def depth_name(max_steered_steps: int) -> str:
    """Row name of a point of the depth curve."""
    return f"max_steered_steps={max_steered_steps}"


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
    yield from _at_places(phase, _undefended(NOTHING), defenses.build(NoneConfig()), places, samples)
    for row in rows:
        if not (row.steers and row.portfolio):
            continue
        for dropped in (False, True) if both_ways else (row.drops_prefix,):
            rule = Rule("inject_once", partial(inject_once, keep_prefix=not dropped), Needs(scores=False))
            yield from _at_places(injection_phase(phase, dropped), row, rule, places, samples)


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


def _jobs(
    phase: Phase,
    name: str,
    benchmark: Benchmark,
    rule: Rule,
    row: TableRow | None = None,
    samples: int = 1,
) -> Iterator[Job]:
    row = row or _undefended(name)
    for prompt in benchmark.prompts:
        for sample in range(samples):
            key = Key(phase, name, benchmark.name, prompt.id, sample)
            yield Job(key, prompt, rule, row.token_ids, None, row.fingerprint, row.transferred)


def _undefended(name: str) -> TableRow:
    return TableRow(name, NoneConfig(), defenses.build(NoneConfig()))
