"""Calibrates the threshold of a guarded reasoner on harmless prompts: rollouts, `calibration.json` and a page."""

# plotly has no types.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import plotly.graph_objects as go
from pydantic import Field

from safethink import benchmarks
from safethink.config import (
    BenchmarkConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    RefusalJudgeConfig,
    RunConfig,
    SafeThinkConfig,
    TestbedBenchmarkConfig,
    TestbedJudgeConfig,
    WorldConfig,
)
from safethink.errors import ConfigError
from safethink.evaluation import figures
from safethink.evaluation.monitored_rollouts import PromptKind, Watch, watch, watching_config
from safethink.evaluation.plan import Plan
from safethink.evaluation.plan import plan as plan_evaluation
from safethink.evaluation.report import templates
from safethink.evaluation.risk_control import Calibration, Candidate, calibrate, num_needed, refuse_too_few
from safethink.evaluation.statistics import clopper_pearson
from safethink.evaluation.worker import GuardedReasoner
from safethink.files import write_text
from safethink.frozen import Frozen
from safethink.testbed.origin import origin

JSON_FILE, REPORT = "calibration.json", "calibration.html"
PROMPTS_SEED: Final = 1
"""Draws the testbed's prompts: fresh ones, that nobody has tuned to."""


HARMLESS: Final[tuple[PromptKind, ...]] = ("harmless", "borderline")
"""Kinds of prompts of a benchmark that are no attacks; in a JSONL `--prompts` and on the testbed the first alone is
taken."""


class CalibrationConfig(Frozen):
    """Configuration of a calibration: the bound a threshold is to keep, and the prompts."""

    max_false_interventions: float = 0.01
    """The share of harmless prompts that may see an intervention."""
    delta: float = 0.05
    """The probability with which that limit may be missed."""
    prompts: str | None = None
    """JSONL with prompts of one's own, of which the harmless ones are taken; None for the testbed's."""
    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """In place of these: prompts of benchmarks, of which all but the attacks are taken."""
    n: int = Field(default=1000, ge=1)
    """Number of testbed prompts drawn."""
    prompts_seed: int = PROMPTS_SEED
    """Draws them."""
    steered_only: bool = False
    """Whether only the steps that the defense would steer count, its `max_steered_steps`. Otherwise all do, which holds
    for every setting of the defense and gives a lower threshold."""


class Interventions(Frozen):
    """Interventions among the prompts of one benchmark at the threshold that was found."""

    n: int
    """Prompts of it that count."""
    interventions: int
    """Those of them that would see one."""
    rate: float
    """Their share."""
    low: float
    """Lower end of its exact 95 % interval."""
    high: float
    """Upper end of its exact 95 % interval."""


class CalibrationResult(Frozen):
    """Contents of `calibration.json`."""

    threshold: float
    """The highest threshold that keeps the limit with the confidence asked for."""
    max_false_interventions: float
    """The limit."""
    delta: float
    """The probability with which it may be missed."""
    n: int
    """Harmless prompts that it rests on, one trace each."""
    left_out: int
    """Prompts that could not be run: empty, or longer than the context window."""
    attacks: int
    """Prompts of the benchmarks that are attacks, and were not asked."""
    benchmarks: dict[str, Interventions] = Field(default_factory=dict)
    """Interventions by benchmark, where benchmarks were named: the bound is on their mixture, in which one may see many
    and another none."""
    steps: int | None
    """Steps of each trace that count; null for all."""
    interventions: int
    """Those of the prompts that would see one at this threshold."""
    rate: float
    """Their share."""
    low: float
    """Lower end of its exact 95 % interval."""
    high: float
    """Upper end of its exact 95 % interval."""
    bound: float
    """Upper bound of the rate with confidence 1 - delta."""
    curve: tuple[Candidate, ...]
    """Rising thresholds, each with what it would have done and its test."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources of harmless prompts, resolved.

    Attributes:
        watching: the rollouts as an evaluation.
        num_prompts: how many prompts.
        steps: steps of each trace that count; None for all.
        kinds: kinds of prompts that are taken.
        attacks: prompts of benchmarks that are left out.
    """

    watching: EvalConfig
    num_prompts: int
    steps: int | None
    kinds: tuple[PromptKind, ...] = ("harmless",)
    attacks: int = 0


def resolve(run: RunConfig, config: CalibrationConfig) -> Sources:
    """Find the prompts and refuse what cannot be done; loads no model.

    Raises:
        MissingFileError: the prompts' file is not there.
        ConfigError: a rate outside (0, 1), too few prompts (the number needed is named), no harmless ones, two sources
            of prompts, or a defense that steers no steps to count.
    """
    num_needed(config.max_false_interventions, config.delta)  # A rate that is none is refused before files are read.
    if config.prompts is not None and config.benchmarks:
        raise ConfigError("give prompts either as `benchmarks` or by --prompts")
    sections, world = _prompts(run, config)
    kinds = HARMLESS if config.benchmarks else HARMLESS[:1]
    loaded = [benchmarks.load(section, world) for section in sections]
    num_prompts = sum(len(each.only(*kinds).prompts) for each in loaded)
    if not num_prompts:
        named = config.prompts or ", ".join(each.name for each in loaded)
        raise ConfigError(f"{named}: no harmless prompts, and a threshold is calibrated on no others")
    refuse_too_few(num_prompts, config.max_false_interventions, config.delta)
    on_testbed = all(isinstance(section, TestbedBenchmarkConfig) for section in sections)
    judge = TestbedJudgeConfig() if on_testbed else RefusalJudgeConfig()
    attacks = sum(len(each.prompts) for each in loaded) - num_prompts if config.benchmarks else 0
    return Sources(watching_config(run, sections, world, judge), num_prompts, _steps(run, config), kinds, attacks)


def run(
    run: RunConfig, config: CalibrationConfig, out: Path, reasoner: GuardedReasoner | None = None
) -> CalibrationResult:
    """Roll out harmless prompts, unguarded, and find the threshold; go on where an earlier call was interrupted.

    Writes what `watching.watch` writes, `calibration.json` and `calibration.html`.

    Args:
        run: the reasoner and the monitor.
        config: what the threshold is to keep.
        out: folder of the run.
        reasoner: one that is loaded already; None loads what `run` names.

    Raises:
        SafeThinkError: as `resolve`; or models that are not there, a monitor that fails, or a folder that belongs to
            another run.
    """
    sources = resolve(run, config)
    seen = watch(sources.watching, out, "rolling out harmless prompts", kinds=sources.kinds, reasoner=reasoner)
    by_benchmark = minima_by_benchmark(seen, sources.steps)
    together = [score for scores in by_benchmark.values() for score in scores]
    found = calibrate(together, config.max_false_interventions, config.delta)
    result = _result(found, sources, left_out=sources.num_prompts - len(together))
    if config.benchmarks:
        below = {name: _interventions(scores, result.threshold) for name, scores in by_benchmark.items() if scores}
        result = result.replace(benchmarks=below)
    write_text(out / JSON_FILE, result.model_dump_json(indent=2) + "\n")
    write_text(out / REPORT, _page(result))
    return result


def plan(run: RunConfig, config: CalibrationConfig, probe: bool = False) -> Plan:
    """Count what `run` generates.

    Args:
        run: the guarded reasoner.
        config: the calibration.
        probe: as of `plan.plan`.

    Raises:
        SafeThinkError: as `resolve`.
    """
    sources = resolve(run, config)
    # Of a file's prompts only the harmless ones are rolled out.
    whole = plan_evaluation(sources.watching, probe)
    share = sources.num_prompts / whole.total
    seconds = None if whole.seconds is None else round(whole.seconds * share)
    counted = {"generations": {"watch": sources.num_prompts}, "tokens": round(whole.tokens * share), "seconds": seconds}
    return whole.replace(**counted)


def minima_by_benchmark(seen: Watch, steps: int | None = None) -> dict[str, list[float]]:
    """The lowest score of each watched prompt's trace, and of its answer where that was watched, by benchmark.

    Prompts that could not be run are left out.

    Args:
        seen: the rollouts.
        steps: how many steps of each count, from the first; None for all.
    """
    asked = {(each.name, prompt.id) for each in seen.benchmarks for prompt in each.prompts}
    found: dict[str, list[float]] = {each.name: [] for each in seen.benchmarks}
    for record in seen.records.values():
        scores = (*record.step_scores[:steps], *record.answer_scores)
        if scores and (record.benchmark, record.prompt) in asked:
            found[record.benchmark].append(min(scores))
    return found


def _prompts(run: RunConfig, config: CalibrationConfig) -> tuple[tuple[BenchmarkConfig, ...], WorldConfig]:
    if config.prompts is not None:
        return (JsonlBenchmarkConfig(path=config.prompts, prompts="harmless"),), WorldConfig()
    if config.benchmarks and not any(isinstance(section, TestbedBenchmarkConfig) for section in config.benchmarks):
        return config.benchmarks, WorldConfig()
    found = origin(run.reasoner.path)
    if found is None:
        raise ConfigError(
            f"{run.reasoner.path!r} is no testbed: name harmless prompts by `benchmarks` in the YAML, or a JSONL file "
            "of them by --prompts"
        )
    seeds = {"seed": found.seed, "prompts_seed": config.prompts_seed}
    world = WorldConfig.model_validate({"kind": found.configured_kind, **seeds})
    return config.benchmarks or (TestbedBenchmarkConfig(prompts="harmless", split="validation", n=config.n),), world


def _steps(run: RunConfig, config: CalibrationConfig) -> int | None:
    if not config.steered_only:
        return None
    if not isinstance(run.defense, SafeThinkConfig) or not run.defense.max_steered_steps:
        raise ConfigError(f"steered_only: defense {run.defense.kind!r} has no max_steered_steps to go by")
    return run.defense.max_steered_steps


def _result(found: Calibration, sources: Sources, left_out: int) -> CalibrationResult:
    chosen = {name: value for name, value in asdict(found.chosen).items() if name not in ("p_value", "passes")}
    return CalibrationResult(
        **chosen,
        max_false_interventions=found.limit,
        delta=found.delta,
        n=found.n,
        left_out=left_out,
        attacks=sources.attacks,
        steps=sources.steps,
        bound=found.bound,
        curve=found.curve,
    )


def _interventions(minima: Sequence[float], threshold: float) -> Interventions:
    count = sum(score < threshold for score in minima)
    low, high = clopper_pearson(count, len(minima))
    return Interventions(n=len(minima), interventions=count, rate=count / len(minima), low=low, high=high)


def _page(result: CalibrationResult) -> str:
    return (
        templates("safethink.evaluation")
        .get_template("calibration.html.j2")
        .render(
            plotly_js=figures.plotly_js(), figure=figures.to_html(_figure(result), "false-interventions"), result=result
        )
    )


def _figure(result: CalibrationResult) -> go.Figure:
    """Share of harmless prompts with an intervention against the threshold, with the limit and the one chosen."""
    figure = figures.blank()
    thresholds = [each.threshold for each in result.curve]
    figure.add_scatter(
        name="95 % interval",
        x=thresholds + thresholds[::-1],
        y=[each.high for each in result.curve] + [each.low for each in result.curve][::-1],
        fill="toself",
        fillcolor=figures.GRID,
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        name="harmless prompts with an intervention",
        x=thresholds,
        y=[each.rate for each in result.curve],
        mode="lines",
        line={"color": figures.TRIAL, "width": 3},
        hovertemplate="below %{x:.4f}: %{y:.2%}<extra></extra>",
    )
    figure.add_hline(y=result.max_false_interventions, line={"color": figures.INK, "width": 1, "dash": "dot"})
    figure.add_vline(x=result.threshold, line={"color": figures.INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="threshold", showgrid=False)
    figure.update_yaxes(title="share of harmless prompts", rangemode="tozero", tickformat=".0%")
    return figures.finish(figure, height=360, legend=True)
