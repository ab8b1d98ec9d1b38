# pyright: standard
"""Trains a probe: states of every split, a head for each layer, the best one measured on `test` and exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.monitors import activations, quality
from optimize.monitors.config import ProbeTrainingConfig, TrainMonitorConfig
from optimize.monitors.head import Head, States, fit
from optimize.monitors.steps import LabelledSplit, SplitName
from optimize.pipeline.setup import portable
from safethink.engines import Engine
from safethink.files import json_hash
from safethink.monitors import probe
from safethink.monitors.probe import Probe, ProbeCard
from safethink.prefix.artifact import Identity


@dataclass(frozen=True, slots=True)
class Provenance:
    """Provenance of a probe.

    Attributes:
        reasoner: whose hidden states it reads.
        labeller: who labelled them.
    """

    reasoner: Identity
    labeller: Identity


def train(
    config: TrainMonitorConfig,
    training: ProbeTrainingConfig,
    splits: Mapping[SplitName, LabelledSplit],
    engine: Engine,
    origin: Provenance,
    folder: Path,
) -> Probe:
    """Train a probe and write its folder.

    Args:
        config: everything but how the head is trained.
        training: how it is.
        splits: labelled partial traces.
        engine: the reasoner's.
        origin: names and hashes of the models.
        folder: where the probe goes.

    Raises:
        ConfigError: the engine shows no hidden states, or there is no such layer.
        RecordError: the folder cannot be written.
    """
    read: dict[SplitName, dict[int, Float[Tensor, "steps hidden"]]] = {
        name: activations.read(split, engine, training.layers, config.run.batch_size) for name, split in splits.items()
    }
    heads = {layer: _fit(layer, config, training, splits, read, folder) for layer in dict.fromkeys(training.layers)}
    layer, head = min(heads.items(), key=lambda item: item[1].validation_loss)
    test = splits["test"]
    scores = torch.tanh((read["test"][layer].double() @ head.weight + head.bias) / 2).tolist()
    card = ProbeCard(
        layer=layer,
        hidden_size=len(head.weight),
        reasoner=origin.reasoner,
        labelled_by=origin.labeller,
        label_threshold=config.label_threshold,
        config=portable(config.model_dump(mode="json")),
        data_fingerprint=json_hash([splits[name].fingerprint for name in ("search", "validation")]),
        metrics=quality.of_scores(test, scores, on_testbed=config.prompts is None),
    )
    trained = Probe(card, head.weight, head.bias)
    return probe.save(trained, folder, readme(card, {each: found.validation_loss for each, found in heads.items()}))


def _fit(
    layer: int,
    config: TrainMonitorConfig,
    training: ProbeTrainingConfig,
    splits: Mapping[SplitName, LabelledSplit],
    read: Mapping[SplitName, Mapping[int, Float[Tensor, "steps hidden"]]],
    folder: Path,
) -> Head:
    def labelled(name: SplitName) -> States:
        return States(read[name][layer], safe_probabilities(splits[name]))

    what = f"training a probe on layer {layer}"
    return fit(labelled("search"), labelled("validation"), training, config.seed, folder, what)


def safe_probabilities(split: LabelledSplit) -> Float[Tensor, " steps"]:
    """Targets of a probe from a labeller's scores: (score + 1) / 2 if its threshold is 0, else the label itself."""
    if split.threshold == 0:
        return torch.tensor([(step.score + 1) / 2 for step in split.steps])
    return torch.tensor([float(not unsafe) for unsafe in split.unsafe])


def readme(card: ProbeCard, losses: Mapping[int, float]) -> str:
    """The card of a probe, as Markdown."""
    rows = [
        f"| {name} | {metric.value:.3f} | [{metric.low:.3f}, {metric.high:.3f}] | {metric.n} |"
        for name, metric in card.metrics.items()
    ]
    tried = ", ".join(f"{layer}: {loss:.4f}" for layer, loss in losses.items())
    return "\n".join(
        [
            "# A probe on a reasoner's hidden states",
            "",
            f"Reads layer {card.layer} of `{card.reasoner.name}` (hidden size {card.hidden_size}), and fits no other "
            f"reasoner. Labelled by `{card.labelled_by.name}`.",
            "",
            "It reads injected tokens too, as no monitor of text does: a hidden state depends on all tokens before it.",
            "",
            f"Cross-entropy on validation by layer, in nats: {tried}.",
            "",
            "| on `test` | value | 95 % interval | partial traces |",
            "|---|---|---|---|",
            *rows,
            "",
            "```yaml",
            "monitor: {kind: probe, path: THIS-FOLDER}",
            "```",
            "",
        ]
    )
