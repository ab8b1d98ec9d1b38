"""The reasoner undefended while a monitor scores each step, recorded and resumed as an evaluation is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from safethink import benchmarks
from safethink.benchmarks import Benchmark
from safethink.config import (
    BenchmarkConfig,
    EvalConfig,
    JudgeConfig,
    NoneConfig,
    RowConfig,
    RunConfig,
    SafeThinkConfig,
    SteeringConfig,
    WorldConfig,
)
from safethink.evaluation import folder, jobs, numerics, records
from safethink.evaluation.jobs import Job
from safethink.evaluation.numerics import RunNumerics
from safethink.evaluation.records import Key, Record, RecordWriter
from safethink.evaluation.worker import Execution, GuardedReasoner, load_reasoner
from safethink.judges import Judge
from safethink.judges.build import build as build_judge

PromptKind: TypeAlias = Literal["jailbreak", "harmful", "harmless", "borderline"]
KINDS: Final[tuple[PromptKind, ...]] = get_args(PromptKind)


@dataclass(frozen=True, slots=True)
class Watch:
    """The rollouts watched by the monitor.

    Attributes:
        reasoner: what generated and watched.
        benchmarks: the prompts.
        records: what came of each, by key.
    """

    reasoner: GuardedReasoner
    benchmarks: tuple[Benchmark, ...]
    records: dict[Key, Record]


def watching_config(
    run: RunConfig,
    prompts: Sequence[BenchmarkConfig],
    world: WorldConfig,
    judge: JudgeConfig,
) -> EvalConfig:
    """The evaluation of which no more than this is run; defense and prefix play no part in it.

    Args:
        run: the reasoner and the monitor.
        prompts: what is asked.
        world: the testbed's seeds.
        judge: says in the records what each output was.
    """
    # What is watched decides what could be intervened on; how, does not matter here.
    answers = isinstance(run.defense, SteeringConfig) and run.defense.monitor_answer
    defense = SafeThinkConfig(monitor_answer=answers)
    unsteered = run.replace(defense=defense, prefix=RunConfig.model_fields["prefix"].default)
    return EvalConfig(
        run=unsteered,
        benchmarks=tuple(prompts),
        rows=(RowConfig(name="undefended", defense=NoneConfig()),),
        world=world,
        samples=0,
        recovery_samples=0,
        forced_samples=0,
        depth_curve=(),
        judge=judge,
    )


def watch(
    config: EvalConfig,
    out: Path,
    description: str,
    samples: int = 1,
    kinds: Sequence[PromptKind] = KINDS,
    reasoner: GuardedReasoner | None = None,
    prompts: Sequence[Benchmark] | None = None,
    judge: Judge | None = None,
) -> Watch:
    """Generate whatever `out` has no record of.

    Args:
        config: see `watching_config`.
        out: folder of the records; the same call goes on where another was interrupted.
        description: shown beside the progress.
        samples: traces per prompt.
        kinds: prompts of other kinds are left alone.
        reasoner: one that is loaded already; None loads what `config` names.
        prompts: some of what `config` names, chosen already, of which all are watched; None takes the prompts of
            `kinds`, and of plain harmful ones beside jailbreaks none.
        judge: the judge that `config` names, where it is loaded already.

    Raises:
        SafeThinkError: prompts or models that are not there, a monitor that fails, or a folder that belongs to another
            configuration or to other models.
    """
    if prompts is None:
        loaded = tuple(benchmarks.load(each, config.world).only(*kinds) for each in config.benchmarks)
        prompts = jobs.watched_benchmarks(loaded)
    else:
        loaded = tuple(prompts)
    folder.claim(out, config)
    reasoner = reasoner or load_reasoner(config)
    # First, because weights in another precision are others as well.
    numerics.claim(out, RunNumerics.of(reasoner, config.run.batch_size), folder.has_begun(out))
    folder.claim_models(out, reasoner.models)
    done = {record.key: record for record in records.read(out / folder.RECORDS)}
    seen = Watch(reasoner, loaded, done)
    defense = config.run.defense
    answers = isinstance(defense, SafeThinkConfig) and defense.monitor_answer
    planned = list(jobs.watch(SafeThinkConfig().threshold, prompts, samples, answers))
    go_on(seen, config, out, planned, description, judge or build_judge(config.judge).judge)
    return seen


def go_on(seen: Watch, config: EvalConfig, out: Path, planned: Sequence[Job], description: str, judge: Judge) -> None:
    """Generate further jobs over what was watched, those that `out` has no record of; `seen` gets their records.

    Raises:
        SafeThinkError: a monitor or a judge that fails, or a record that cannot be written.
    """
    with RecordWriter(out / folder.RECORDS) as writer:
        Execution(config, seen.reasoner, judge, writer, seen.records).run(planned, description)
