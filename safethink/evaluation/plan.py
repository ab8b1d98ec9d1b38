"""Upper bounds on the work of an evaluation, before it begins: `--dry-run`."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from safethink import benchmarks
from safethink.benchmarks import Benchmark
from safethink.config import EvalConfig, LlmJudgeConfig, RowConfig, SafeThinkConfig
from safethink.config.judges import judge_leaves
from safethink.evaluation.jobs import attack_benchmarks, only_kinds
from safethink.evaluation.speed import speed
from safethink.frozen import Frozen
from safethink.models.placement import decoding_gib
from safethink.testbed.origin import is_testbed

TESTBED_TOKENS: Final = 40
"""Tokens of a typical testbed output."""
SIDE_A, SIDE_B = "a", "b"
"""Rows of a comparison of two prefixes."""


class Plan(Frozen):
    """Number of generations and of scored steps."""

    generations: dict[str, int]
    """Number of generations, by phase; those of recovery at most, since contexts are found on the way."""
    tokens: int
    """Tokens to decode: about as many on the testbed, at most as many elsewhere."""
    seconds: int | None
    """Rough time; None where the speed is not known."""
    timed_by: str
    """Source of the speed that the time is estimated from."""
    memory_gib: float | None
    """Weights, keys and values of full batches; None where a model is not on this machine."""
    judge_requests: dict[str, int] = Field(default_factory=dict)
    """Number of requests to each large model that judges, by its name, at most: one per answer, one per trace that it
    reads, and one per drift to confirm. Empty where none judges."""

    @property
    def total(self) -> int:
        """All generations."""
        return sum(self.generations.values())


def plan(config: EvalConfig, probe: bool = False) -> Plan:
    """Count what an evaluation generates. Reads prompt files.

    Args:
        config: the evaluation.
        probe: whether the reasoner is loaded and tried, where its speed is not known.

    Raises:
        MissingFileError: a prompt file that is not there.
        ConfigError: a prompt file that cannot be read.
    """
    loaded = [benchmarks.load(benchmark, config.world) for benchmark in config.benchmarks]
    attacks, innocent = attack_benchmarks(loaded), only_kinds(loaded, "harmless", "borderline")
    steering = sum(row.defense.kind == "safethink" for row in config.rows)
    resampling = steering + sum(row.defense.kind == "resample_only" for row in config.rows)
    ways = 2 if config.recovery_both_ways else 1
    trial = config.on_trial
    generations = {
        "watch": _count(attacks + innocent),
        "guarded": _count(loaded) * len(config.rows) * config.samples,
        "depth": _count([each.first(config.depth_prompts) for each in attacks]) * _depth_points(config, trial),
        "recovery": _count(attacks) * (ways * steering + 1) * config.recovery_samples,
        "recovery_guarded": _count(attacks) * resampling * config.recovery_samples * config.recovery_guarded,
        "forced": _count(innocent) * (steering + 1) * config.forced_samples,
    }
    limits, known = config.run.limits, is_testbed(config.run.reasoner.path)
    tokens = sum(generations.values()) * (
        TESTBED_TOKENS if known else limits.max_trace_tokens + limits.max_answer_tokens
    )
    pace = speed(config.run, probe)
    return Plan(
        generations=generations,
        tokens=tokens,
        seconds=pace.seconds(tokens),
        timed_by=pace.source,
        memory_gib=decoding_gib(config.run),
        judge_requests=_judge_requests(config, generations, _count(attacks)),
    )


def _judge_requests(config: EvalConfig, generations: dict[str, int], drifts: int) -> dict[str, int]:
    """The judge that decides reads every generation, further ones the guarded; any may be asked about every drift."""
    out: dict[str, int] = {}
    for place, judge in enumerate(config.judges):
        outputs = generations["guarded"] if place else sum(generations.values())
        for leaf in judge_leaves(judge):
            if isinstance(leaf, LlmJudgeConfig):
                requests = outputs * (2 if leaf.judge_trace else 1) + drifts
                out[leaf.title] = out.get(leaf.title, 0) + requests
    return out


def paired_config(a: str, b: str, config: EvalConfig) -> EvalConfig:
    """The evaluation of two prefixes under the same defense: `a` is on trial, `b` is the row beside it."""
    trial = config.on_trial
    defense = trial.defense if trial else SafeThinkConfig()
    rows = (RowConfig(name=SIDE_A, defense=defense), RowConfig(name=SIDE_B, defense=defense, prefix=b))
    return config.replace(prefix=a, rows=rows, depth_curve=())


def _count(chosen: list[Benchmark]) -> int:
    return sum(len(benchmark.prompts) for benchmark in chosen)


def _depth_points(config: EvalConfig, trial: RowConfig | None) -> int:
    if trial is None or not isinstance(trial.defense, SafeThinkConfig):
        return 0
    return sum(value != trial.defense.max_steered_steps for value in config.depth_curve)
