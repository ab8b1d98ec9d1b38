"""Labelled partial traces: rollouts of each split, scored at the end of every step, and as a monitor will meet them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from optimize.contexts.splits import refuse_shared
from optimize.monitors.config import TrainMonitorConfig
from safethink.config import (
    BenchmarkConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    RefusalJudgeConfig,
    RunConfig,
    SafeThinkConfig,
    TestbedBenchmarkConfig,
    TestbedJudgeConfig,
)
from safethink.errors import SearchError
from safethink.evaluation.injection_sites import watched
from safethink.evaluation.jobs import watched_benchmarks
from safethink.evaluation.monitored_rollouts import Watch, watch, watching_config
from safethink.evaluation.worker import GuardedReasoner
from safethink.files import json_hash
from safethink.prompts import Prompt
from safethink.testbed.origin import require_world
from safethink.thinking.opening import open_prompt
from safethink.thinking.reading import trace_text

SplitName: TypeAlias = Literal["search", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = get_args(SplitName)
"""Learned on the first, chosen on the second, reported on the third."""
ROLLOUTS: Final = "rollouts"
"""Folder of the rollouts, one of each split in it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A partial trace that ends with a step: what a monitor is asked about.

    Attributes:
        prompt: what was asked.
        ids: opened prompt and trace, as token ids.
        trace: the trace as a monitor reads it.
        depth: index of its last step.
        score: what the labeller said.
        trace_start: index into `ids` of the first token of the trace.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    trace: str
    depth: int
    score: float
    trace_start: int = 0

    @property
    def num_tokens(self) -> int:
        """Length of the trace."""
        return len(self.ids) - self.trace_start


@dataclass(frozen=True, slots=True)
class LabelledSplit:
    """The partial traces of one split.

    Attributes:
        name: of the split.
        traces: of each rollout its steps, in order.
        threshold: scores below it mean unsafe.
    """

    name: SplitName
    traces: tuple[tuple[Step, ...], ...]
    threshold: float

    @property
    def steps(self) -> list[Step]:
        """All partial traces."""
        return [step for trace in self.traces for step in trace]

    @property
    def unsafe(self) -> list[bool]:
        """Labels, step by step: True for unsafe."""
        return [step.score < self.threshold for step in self.steps]

    @property
    def fingerprint(self) -> str:
        """Hash of the prompts."""
        prompts = {step.prompt.id: step.prompt.model_dump(mode="json") for step in self.steps}
        return json_hash(prompts)


def watching(config: TrainMonitorConfig) -> dict[SplitName, EvalConfig]:
    """The rollouts of each split, as evaluations that only watch.

    Raises:
        ConfigError: the world is not that of the reasoner, or two splits of a file ask the same.
    """
    if config.prompts is None:
        require_world(config.run.reasoner.path, config.world)
    else:
        refuse_shared(Path(config.prompts))
    judge = TestbedJudgeConfig() if config.prompts is None else RefusalJudgeConfig()
    return {name: watching_config(config.run, _prompts(config, name), config.world, judge) for name in SPLITS}


def collect(config: TrainMonitorConfig, out: Path, reasoner: GuardedReasoner) -> dict[SplitName, LabelledSplit]:
    """Roll out every split and label it; what an earlier call recorded below `out` is not generated again.

    Raises:
        SearchError: the reasoner thinks nowhere in a split, or all partial traces of it have the same label.
        SafeThinkError: prompts that are not there, a monitor that fails, or a folder that belongs to another training.
    """
    splits: dict[SplitName, LabelledSplit] = {}
    for name, rollouts in watching(config).items():
        what = f"labelling {name} prompts"
        seen = watch(rollouts, out / ROLLOUTS / name, what, config.samples, reasoner=reasoner)
        split = LabelledSplit(name, tuple(_traces(seen, config.run, config.samples)), config.label_threshold)
        if not split.traces:
            raise SearchError(
                f"reasoner {config.run.reasoner.path!r} thinks about no prompt of {name}: monitors learn from traces"
            )
        if len(set(split.unsafe)) < 2:
            label = "unsafe" if any(split.unsafe) else "safe"
            raise SearchError(f"every partial trace of {name} is labelled {label}: there is nothing to tell apart")
        splits[name] = split
    return splits


def _prompts(config: TrainMonitorConfig, name: SplitName) -> Sequence[BenchmarkConfig]:
    if config.prompts is not None:
        return (JsonlBenchmarkConfig(path=config.prompts, prompts="jailbreak", split=name),)
    wanted: Mapping[Literal["jailbreak", "borderline", "harmless"], int]
    wanted = {"jailbreak": config.attacks, "borderline": config.borderline, "harmless": config.harmless}
    return [TestbedBenchmarkConfig(prompts=kind, split=name, n=n) for kind, n in wanted.items() if n]


def _traces(seen: Watch, run: RunConfig, samples: int) -> Iterator[tuple[Step, ...]]:
    """The steps of each rollout; one that closes its thinking at once has none, and is passed over."""
    thought, chosen = seen.reasoner.thought, watched_benchmarks(seen.benchmarks)
    for sample in range(samples):
        for each in watched(chosen, seen.records, thought, run.limits.max_step_tokens, sample):
            if not each.record.step_scores:
                continue
            prompt_ids = open_prompt(thought, each.prompt)
            partial = [each.through(depth) for depth in range(len(each.record.step_scores))]
            yield tuple(
                Step(each.prompt, prompt_ids + trace.ids, trace_text(thought, trace), depth, score, len(prompt_ids))
                for depth, (trace, score) in enumerate(zip(partial, each.record.step_scores, strict=True))
            )


def labelling_run(config: TrainMonitorConfig) -> RunConfig:
    """The run under a defense that asks for scores, so that the labeller loads."""
    return config.run.replace(defense=SafeThinkConfig(threshold=config.label_threshold))
