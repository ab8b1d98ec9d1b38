"""Rollouts of each split, labelled step by step by a monitor, or whole by a judge of what became of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from optimize.contexts import prompt_sets
from optimize.contexts.splits import refuse_shared
from optimize.monitors import responses
from optimize.monitors.config import MonitorPromptSetsConfig, TrainMonitorConfig
from optimize.monitors.steps import SPLITS, LabelledSplit, Source, SplitName, Step, cut, steps_of
from safethink import benchmarks, defenses
from safethink.benchmarks import Benchmark
from safethink.config import (
    BenchmarkConfig,
    ConstantMonitorConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    NoneConfig,
    RefusalJudgeConfig,
    RunConfig,
    SafeThinkConfig,
    TestbedBenchmarkConfig,
    TestbedJudgeConfig,
)
from safethink.errors import SearchError
from safethink.evaluation import jobs
from safethink.evaluation.injection_sites import Watched, random_step, watched
from safethink.evaluation.jobs import watched_benchmarks
from safethink.evaluation.monitored_rollouts import Watch, go_on, watch, watching_config
from safethink.evaluation.records import Record
from safethink.evaluation.variants import TableRow
from safethink.guarded import SafeThink
from safethink.judges import Judge
from safethink.judges.build import build as build_judge
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.testbed.origin import require_world
from safethink.tokens import Tokens

ROLLOUTS: Final = "rollouts"
"""Folder of the rollouts, one of each split in it."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Rollouts of a split.

    Attributes:
        config: the same as an evaluation that only watches.
        prompts: those of the benchmarks' prompts that belong to the split; None for all.
    """

    config: EvalConfig
    prompts: tuple[Benchmark, ...] | None = None

    @property
    def asked(self) -> list[Prompt]:
        """All prompts of the split."""
        loaded = self.prompts
        if loaded is None:
            loaded = tuple(benchmarks.load(each, self.config.world) for each in self.config.benchmarks)
        return [prompt for each in loaded for prompt in each.prompts]


def watching(config: TrainMonitorConfig) -> dict[SplitName, Planned]:
    """The rollouts of each split, as evaluations that only watch.

    Raises:
        ConfigError: the world is not that of the reasoner, or two splits of a file ask the same.
        SafeThinkError: a benchmark that cannot be read.
    """
    if config.on_testbed:
        require_world(config.run.reasoner.path, config.world)
    if config.prompts is not None:
        refuse_shared(Path(config.prompts))
    judge = TestbedJudgeConfig() if config.on_testbed else RefusalJudgeConfig()
    if config.labels is not None:
        judge = config.labels.judge
    run = labelling_run(config)
    if config.prompt_sets is None:
        return {name: Planned(watching_config(run, _sections(config, name), config.world, judge)) for name in SPLITS}
    sets = config.prompt_sets
    whole = watching_config(run, (*sets.either, *sets.search, *sets.validation, *sets.test), config.world, judge)
    return {name: Planned(whole, prompts) for name, prompts in _split(sets).items()}


def collect(
    config: TrainMonitorConfig,
    planned: Mapping[SplitName, Planned],
    out: Path,
    reasoner: SafeThink,
    judge: Judge | None = None,
) -> dict[SplitName, LabelledSplit]:
    """Roll out every split and label it; what an earlier call recorded below `out` is not generated again.

    Args:
        config: of the training.
        planned: what is rolled out, see `watching`.
        out: the training's folder.
        reasoner: the reasoner, with the monitor that labels.
        judge: the judge of `config.labels`, where it is loaded already.

    Raises:
        SearchError: the reasoner thinks nowhere in a split, or all partial traces of it have the same label.
        SafeThinkError: prompts or files that are not there, a monitor that fails, or a folder that belongs to another
            training.
    """
    labelled = responses.load(config, {name: each.asked for name, each in planned.items()} if config.labelled else {})
    splits: dict[SplitName, LabelledSplit] = {}
    for name, rollouts in planned.items():
        judge = judge or build_judge(rollouts.config.judge).judge
        split = _Collector(config, name, rollouts, out / ROLLOUTS / name, reasoner, judge).collect()
        if not split.traces:
            raise SearchError(
                f"reasoner {config.run.reasoner.path!r} thinks about no prompt of {name}: monitors learn from traces"
            )
        split = responses.added(split, labelled[name], reasoner.thought, config.run.limits)
        if len(set(split.unsafe)) < 2:
            label = "unsafe" if any(split.unsafe) else "safe"
            raise SearchError(f"every partial trace of {name} is labelled {label}: there is nothing to tell apart")
        splits[name] = split
    return splits


def labelling_run(config: TrainMonitorConfig) -> RunConfig:
    """The run under a defense that asks for scores, so that the labeller loads; where a judge labels, none does."""
    run = config.run.replace(defense=SafeThinkConfig(threshold=config.label_threshold))
    return run if config.labels is None else run.replace(monitor=ConstantMonitorConfig())


def num_injected(config: TrainMonitorConfig, num_rollouts: int) -> int:
    """Number of rollouts that go on behind an injection, of so many."""
    return round(config.injected_share * num_rollouts) if config.injected else 0


def is_unsafe(record: Record) -> bool | None:
    """Label of a rollout by what became of it; None where it never closed, or no verdict could be read."""
    return None if record.outcome in ("invalid", "unjudged") else record.outcome == "harmful"


@dataclass(frozen=True, slots=True)
class _Collector:
    """Rolls out the prompts of one split.

    Attributes:
        config: of the training.
        name: the split.
        planned: its rollouts.
        out: folder of their records.
        reasoner: generates, and scores where a monitor labels.
        judge: says what became of each rollout.
    """

    config: TrainMonitorConfig
    name: SplitName
    planned: Planned
    out: Path
    reasoner: SafeThink
    judge: Judge

    def collect(self) -> LabelledSplit:
        """The reasoner's own traces, and those with an injection."""
        what = f"{'rolling out' if self.config.labels else 'labelling'} {self.name} prompts"
        seen = watch(
            self.planned.config,
            self.out,
            what,
            self.config.samples,
            reasoner=self.reasoner,
            prompts=self.planned.prompts,
            judge=self.judge,
        )
        own, thought = list(self._own(seen)), self.reasoner.thought
        partial = [[each.through(depth) for depth in range(len(each.record.step_scores))] for each in own]
        if self.config.labels is None:
            traces = [
                tuple(steps_of(each.prompt, traces, each.record.step_scores, thought))
                for each, traces in zip(own, partial, strict=True)
            ]
            return LabelledSplit(self.name, tuple(traces), self.config.label_threshold)
        pairs = zip(own, partial, strict=True)
        judged = [self._judged(each.record, each.prompt, steps, "own") for each, steps in pairs]
        judged += [self._judged(*each, "injected") for each in self._injected(seen, own)]
        found = tuple(trace for trace in judged if trace is not None)
        return LabelledSplit(self.name, found, self.config.label_threshold, len(judged) - len(found))

    def _own(self, seen: Watch) -> Iterator[Watched]:
        """Undisturbed rollouts; one that closes its thinking at once has no steps, and is passed over."""
        chosen = watched_benchmarks(seen.benchmarks) if self.planned.prompts is None else self.planned.prompts
        for sample in range(self.config.samples):
            found = watched(chosen, seen.records, seen.reasoner.thought, self._max_step_tokens, sample)
            yield from (each for each in found if each.record.step_scores)

    def _injected(self, seen: Watch, own: Sequence[Watched]) -> Iterator[tuple[Record, Prompt, list[Tokens]]]:
        """Rollouts that go on from a random step of a share of `own` behind an injection; their steps from there on."""
        if not self.config.injected:
            return
        seed = self.config.seed

        def lot(each: Watched) -> int:
            return stable_seed(seed, "injected", each.prompt.id, each.record.sample)

        bare, plain = NoneConfig(), defenses.build(NoneConfig())
        rows = [TableRow(spec, bare, plain, self.reasoner.bind(spec).prefixes[:1]) for spec in self.config.injected]
        chosen = sorted(own, key=lot)[: num_injected(self.config, len(own))]
        planned = [
            job
            for each in chosen
            for job in jobs.injected_once(
                rows[lot(each) % len(rows)], [random_step(each, self.reasoner.thought, seed, each.record.sample)]
            )
        ]
        what = f"injecting into {self.name} traces"
        go_on(seen, self.planned.config, self.out, planned, what, self.judge)
        for job in planned:
            record = seen.records[job.key]
            forced = tuple(place in record.forced for place in range(len(record.trace_ids)))
            before = 0 if job.start is None else len(job.start)
            trace = Tokens(record.trace_ids, forced)
            yield record, job.prompt, cut(self.reasoner.thought, trace, self._max_step_tokens, before)

    def _judged(
        self, record: Record, prompt: Prompt, partial: Sequence[Tokens], source: Source
    ) -> tuple[Step, ...] | None:
        """The partial traces of a rollout, labelled by what became of it; None for one without a label."""
        unsafe = is_unsafe(record)
        if unsafe is None or not partial:
            return None
        scores = [-1.0 if unsafe else 1.0] * len(partial)
        return tuple(steps_of(prompt, partial, scores, self.reasoner.thought, source))

    @property
    def _max_step_tokens(self) -> int:
        return self.config.run.limits.max_step_tokens


def _split(sets: MonitorPromptSetsConfig) -> dict[SplitName, tuple[Benchmark, ...]]:
    search, validation, test = prompt_sets.load_with_test(sets, sets.test)
    prompts: dict[SplitName, tuple[Prompt, ...]] = {
        "search": search.prompts,
        "validation": validation.prompts,
        "test": test,
    }
    return {name: (Benchmark(name, found),) for name, found in prompts.items()}


def _sections(config: TrainMonitorConfig, name: SplitName) -> Sequence[BenchmarkConfig]:
    if config.prompts is not None:
        return (JsonlBenchmarkConfig(path=config.prompts, prompts="jailbreak", split=name),)
    wanted: Mapping[Literal["jailbreak", "borderline", "harmless"], int]
    wanted = {"jailbreak": config.attacks, "borderline": config.borderline, "harmless": config.harmless}
    return [TestbedBenchmarkConfig(prompts=kind, split=name, n=n) for kind, n in wanted.items() if n]
