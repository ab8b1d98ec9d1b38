"""Trains a monitor end to end: rolls out, labels, trains, measures and exports."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from optimize.monitors import rollouts
from optimize.monitors.config import ClassifierTrainingConfig, ProbeTrainingConfig, TrainMonitorConfig
from optimize.monitors.probe import Provenance
from optimize.monitors.steps import SOURCES, SPLITS, LabelledSplit, SplitName
from optimize.pipeline import setup
from safethink.config import yaml_config
from safethink.config.mismatch import refuse_other
from safethink.evaluation import folder
from safethink.evaluation.plan import Plan
from safethink.evaluation.plan import plan as plan_evaluation
from safethink.files import write_text, writing
from safethink.frozen import Growing
from safethink.guarded import SafeThink
from safethink.judges.build import BuiltJudge
from safethink.judges.build import build as build_judge
from safethink.models.hashes import adapter_hash
from safethink.prefix.artifact import Identity, Metric

MONITOR = "monitor"
"""The exported monitor, in a training's folder; what `monitor.path` takes."""
CONFIG, SUMMARY = "config.yaml", "summary.json"


class Trained(Growing):
    """Summary of a training: `summary.json`."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"sources", "left_out"})

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
    `labeller_oracle_` says how well the labels themselves do. `prompt_alone_` says how well the prompt alone tells:
    of a probe a head trained on the prompt's last state, of a monitor of text its own score of an empty trace."""
    training_seconds: float
    """Reading states, training and measuring, without the rollouts."""
    sources: dict[str, dict[str, int]] = Field(default_factory=dict)
    """Number of partial traces by source and split, where there are others than the reasoner's own: `injected` ones
    behind an injection, `labelled` ones of files."""
    left_out: dict[str, int] = Field(default_factory=dict)
    """Rollouts without a label, which never closed or could not be judged, and labelled responses that do not fit, by
    split; empty where nothing was left out."""


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
    planned = rollouts.watching(config)  # A world or a file that does not fit is refused before anything loads.
    _claim(config, out)
    labelled_run = rollouts.labelling_run(config)
    guarded = SafeThink.from_config(labelled_run)
    judge = None if config.labels is None else build_judge(config.labels.judge, out / folder.REPLIES)
    splits = rollouts.collect(config, planned, out, guarded, None if judge is None else judge.judge)
    started = time.monotonic()
    if isinstance(config.monitor, ProbeTrainingConfig):
        from optimize.monitors import probe

        source = setup.source_of(labelled_run, guarded, setup.identity(config.run.monitor))
        # The sum of an adapter and its base has other weights for every rounding of the base.
        reasoner = source.reasoner.replace(sha256=adapter_hash(guarded.model) or source.reasoner.sha256)
        origin = Provenance(reasoner, source.monitor if judge is None else labeller(judge))
        metrics = probe.train(config, config.monitor, splits, guarded.engine, origin, out / MONITOR).card.metrics
    elif isinstance(config.monitor, ClassifierTrainingConfig):
        from optimize.monitors import classifier

        origin = setup.identity(config.run.monitor) if judge is None else labeller(judge)
        metrics = classifier.train(config, config.monitor, splits, origin.name, out, out / MONITOR)
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
        sources=_sources(splits),
        left_out={name: split.left_out for name, split in splits.items() if split.left_out},
    )
    write_text(out / SUMMARY, json.dumps(trained.model_dump(mode="json"), indent=2) + "\n")
    return trained


def labeller(judge: BuiltJudge) -> Identity:
    """Identity of a judge that labels rollouts by what became of them, in a card."""
    return Identity(name=f"the judge {judge.name} of finished outputs", sha256=judge.fingerprint)


def _sources(splits: Mapping[SplitName, LabelledSplit]) -> dict[str, dict[str, int]]:
    counted = {
        source: {name: sum(step.source == source for step in split.steps) for name, split in splits.items()}
        for source in SOURCES
    }
    found = {source: counts for source, counts in counted.items() if any(counts.values())}
    return found if len(found) > 1 else {}


def plan(config: TrainMonitorConfig, probe: bool = False) -> Plan:
    """Count what labelling decodes, most of the work.

    Args:
        config: the training.
        probe: as of `evaluation.plan.plan`.

    Raises:
        SafeThinkError: a prompt file or a world that does not fit.
    """
    one: dict[SplitName, Plan] = {}
    for name, planned in rollouts.watching(config).items():
        whole = plan_evaluation(planned.config, probe)
        num_rollouts = (whole.total if planned.prompts is None else len(planned.asked)) * config.samples
        total = num_rollouts + rollouts.num_injected(config, num_rollouts)
        share = total / whole.total
        seconds = None if whole.seconds is None else round(whole.seconds * share)
        counted = {"generations": {name: total}, "tokens": round(whole.tokens * share), "seconds": seconds}
        one[name] = whole.replace(**counted)
    seconds = [each.seconds for each in one.values() if each.seconds is not None]
    first = one[SPLITS[0]]
    return first.replace(
        generations={name: each.total for name, each in one.items()},
        tokens=sum(each.tokens for each in one.values()),
        seconds=sum(seconds) if len(seconds) == len(one) else None,
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
    has_begun = any(records.stat().st_size for records in (out / rollouts.ROLLOUTS).glob(f"*/{folder.RECORDS}"))
    if has_begun and path.is_file():
        refuse_other(path, yaml_config.load(TrainMonitorConfig, path), config, "another training")
    write_text(path, yaml_config.dump(config))
