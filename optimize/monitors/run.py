"""Trains a monitor end to end: rolls out, labels, trains, measures and exports."""

from __future__ import annotations

import json
import time
from pathlib import Path

from optimize.monitors import steps
from optimize.monitors.config import ProbeTrainingConfig, TrainMonitorConfig
from optimize.monitors.probe import Provenance
from optimize.monitors.steps import SPLITS
from optimize.pipeline import setup
from safethink.config import yaml_config
from safethink.config.mismatch import refuse_other
from safethink.evaluation import folder
from safethink.evaluation.plan import Plan
from safethink.evaluation.plan import plan as plan_evaluation
from safethink.files import write_text, writing
from safethink.frozen import Frozen
from safethink.guarded import SafeThink
from safethink.prefix.artifact import Metric

MONITOR = "monitor"
"""The exported monitor, in a training's folder; what `monitor.path` takes."""
CONFIG, SUMMARY = "config.yaml", "summary.json"


class Trained(Frozen):
    """Summary of a training: `summary.json`."""

    kind: str
    """Kind of the trained monitor."""
    path: str
    """Its folder."""
    partial_traces: dict[str, int]
    """Number of labelled partial traces, by split."""
    unsafe: dict[str, int]
    """Number of those labelled unsafe, by split."""
    metrics: dict[str, Metric]
    """Metrics on `test`: `f1` and `auc` against the labels; on the testbed, `oracle_` against the truth, and
    `labeller_oracle_` says how well the labels themselves do."""
    training_seconds: float
    """Reading states, training and measuring, without the rollouts."""


def run(config: TrainMonitorConfig, out: Path) -> Trained:
    """Train a monitor; go on where an earlier call was interrupted.

    Writes `config.yaml`, the rollouts of every split, `monitor/` and `summary.json`.

    Args:
        config: the resolved configuration.
        out: the training's folder; the monitor is `out/monitor`.

    Raises:
        SafeThinkError: a path, a monitor or a world that does not fit, labels that are all the same, or a folder that
            belongs to another training.
    """
    steps.watching(config)  # A world or a file that does not fit is refused before anything loads.
    _claim(config, out)
    labelled_run = steps.labelling_run(config)
    guarded = SafeThink.from_config(labelled_run)
    splits = steps.collect(config, out, guarded)
    started = time.monotonic()
    if isinstance(config.monitor, ProbeTrainingConfig):
        from optimize.monitors import probe

        source = setup.source_of(labelled_run, guarded, setup.identity(config.run.monitor))
        origin = Provenance(source.reasoner, source.monitor)
        metrics = probe.train(config, config.monitor, splits, guarded.engine, origin, out / MONITOR).card.metrics
    else:
        from optimize.monitors import reward

        metrics = reward.train(config, config.monitor, splits, out, out / MONITOR)
    trained = Trained(
        kind=config.monitor.kind,
        path=str(out / MONITOR),
        partial_traces={name: len(split.steps) for name, split in splits.items()},
        unsafe={name: sum(split.unsafe) for name, split in splits.items()},
        metrics=metrics,
        training_seconds=round(time.monotonic() - started, 1),
    )
    write_text(out / SUMMARY, json.dumps(trained.model_dump(mode="json"), indent=2) + "\n")
    return trained


def plan(config: TrainMonitorConfig, probe: bool = False) -> Plan:
    """Count what labelling decodes, most of the work.

    Args:
        config: the training.
        probe: as of `evaluation.plan.plan`.

    Raises:
        SafeThinkError: a prompt file or a world that does not fit.
    """
    one = {name: plan_evaluation(rollouts, probe) for name, rollouts in steps.watching(config).items()}
    planned = [one[name] for name in SPLITS]
    seconds = [each.seconds for each in planned if each.seconds is not None]
    return Plan(
        generations={name: each.total * config.samples for name, each in one.items()},
        tokens=sum(each.tokens for each in planned) * config.samples,
        seconds=sum(seconds) * config.samples if len(seconds) == len(planned) else None,
        timed_by=planned[0].timed_by,
        memory_gib=planned[0].memory_gib,
    )


def _claim(config: TrainMonitorConfig, out: Path) -> None:
    """Make `out` the home of a training, or find it to be the home of the same one.

    A training that stopped before its first rollout, at a misspelt path for instance, has no claim to it.

    Raises:
        ConfigError: another training lives there; what differs is named.
        RecordError: the folder cannot be written.
    """
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG
    has_begun = any(records.stat().st_size for records in (out / steps.ROLLOUTS).glob(f"*/{folder.RECORDS}"))
    if has_begun and path.is_file():
        refuse_other(path, yaml_config.load(TrainMonitorConfig, path), config, "another training")
    write_text(path, yaml_config.dump(config))
