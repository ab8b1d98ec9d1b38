# pyright: standard
"""Trains a probe: states of every split, a head for each layer and pooling, the best one measured and exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.monitors import activations, positions, quality
from optimize.monitors.activations import StepStates
from optimize.monitors.config import ProbeTrainingConfig, TrainMonitorConfig
from optimize.monitors.head import Head, States, fit
from optimize.monitors.poolings import FITTED, Candidate, Part, chooses, fit_at_tokens, in_halves, margins, poolings_of
from optimize.monitors.steps import LabelledSplit, SplitName
from optimize.monitors.traces import TokenTraces
from optimize.pipeline.setup import portable
from safethink.engines import Engine
from safethink.files import json_hash
from safethink.monitors import probe
from safethink.monitors.pooling import Pooling
from safethink.monitors.probe import PositionThreshold, Probe, ProbeCard
from safethink.prefix.artifact import Identity, Metric

PROMPT_ALONE_NOTE: Final = (
    "`prompt_alone_`: a head of the same kind, trained and chosen as this one, that is shown the hidden state at the "
    "prompt's last token and nothing of the trace. What the other rows have above these is told by the trace."
)


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
        SearchError: too few traces to choose a pooling or to place thresholds on.
        RecordError: the folder cannot be written.
    """
    parts = _parts(splits, training)
    batch_size = config.run.batch_size
    read: dict[Part, dict[int, StepStates]] = {
        part: activations.read(split, engine, training.layers, batch_size) for part, split in parts.items()
    }
    candidates, losses = _candidates(config, training, parts, read, engine, folder)
    tried = _tried(candidates, parts, on_testbed=config.on_testbed)
    chosen = max(candidates, key=lambda each: tried[each.pooling.title]["auc"].value) if tried else candidates[0]
    thresholds: tuple[PositionThreshold, ...] = ()
    if training.positions is not None:
        thresholds = positions.learn(parts["held_out"], chosen.margins["held_out"].tolist(), training.positions)
    card = ProbeCard(
        layer=chosen.layer,
        hidden_size=len(chosen.head.weight),
        pooling=chosen.pooling,
        thresholds=thresholds,
        reasoner=origin.reasoner,
        labelled_by=origin.labeller,
        label_threshold=config.label_threshold,
        config=portable(config.model_dump(mode="json")),
        data_fingerprint=json_hash([splits[name].fingerprint for name in ("search", "validation")]),
        poolings=tried,
    )
    test, at_test = parts["test"], chosen.margins["test"]
    shifts = [card.threshold(step.num_tokens) for step in test.steps]
    scores = torch.tanh((at_test - torch.tensor(shifts, dtype=torch.float64)) / 2).tolist()
    card = card.replace(
        metrics=quality.of_scores(test, scores, config.on_testbed)
        | prompt_alone(config, training, parts, read, folder),
        false_alarms=positions.false_alarms(test, at_test.tolist(), thresholds),
    )
    return probe.save(Probe(card, chosen.head.weight, chosen.head.bias), folder, readme(card, losses))


def _parts(splits: Mapping[SplitName, LabelledSplit], training: ProbeTrainingConfig) -> dict[Part, LabelledSplit]:
    """The splits, with half of validation held out where something is chosen on it."""
    if not chooses(training):
        return {"search": splits["search"], "validation": splits["validation"], "test": splits["test"]}
    stopping, held_out = in_halves(splits["validation"])
    return {"search": splits["search"], "validation": stopping, "held_out": held_out, "test": splits["test"]}


def _candidates(
    config: TrainMonitorConfig,
    training: ProbeTrainingConfig,
    parts: Mapping[Part, LabelledSplit],
    read: Mapping[Part, Mapping[int, StepStates]],
    engine: Engine,
    folder: Path,
) -> tuple[list[Candidate], dict[int, float]]:
    """A candidate for each pooling, in the order of the configuration, and the loss of every layer's head.

    The layer is chosen at the last token: all tokens are read at that one alone.
    """
    safe: dict[Part, Float[Tensor, " steps"]] = {
        part: torch.tensor(split.safe_probabilities) for part, split in parts.items()
    }

    def at_last(layer: int) -> Head:
        states = [States(read[part][layer].ends, safe[part]) for part in FITTED]
        return fit(states[0], states[1], training, config.seed, folder, f"training a probe on layer {layer}")

    heads = {layer: at_last(layer) for layer in dict.fromkeys(training.layers)}
    layer, head = min(heads.items(), key=lambda item: item[1].validation_loss)
    rules = poolings_of(training)
    tokens: dict[Part, TokenTraces] = {}
    if any(rule.kind != "last" for rule in rules):
        tokens = {
            part: activations.read_tokens(split, engine, layer, config.run.batch_size) for part, split in parts.items()
        }
    unfitted: list[Part] = [part for part in parts if part not in FITTED]
    last = Candidate(Pooling(), layer, head, {part: margins(head, read[part][layer].ends) for part in unfitted})
    candidates = [
        last if rule.kind == "last" else fit_at_tokens(rule, layer, tokens, safe, training, config.seed, folder)
        for rule in rules
    ]
    return candidates, {each: found.validation_loss for each, found in heads.items()}


def prompt_alone(
    config: TrainMonitorConfig,
    training: ProbeTrainingConfig,
    parts: Mapping[Part, LabelledSplit],
    read: Mapping[Part, Mapping[int, StepStates]],
    folder: Path,
) -> dict[str, Metric]:
    """Quality on `test` of a head of the same kind that is shown the end of the prompt, and nothing of the trace.

    Args:
        config: everything but how the head is trained.
        training: how it is; the layer is chosen as the probe's.
        parts: labelled partial traces.
        read: their states.
        folder: Lightning's own; nothing is written there.
    """
    safe = {part: torch.tensor(parts[part].safe_probabilities) for part in FITTED}

    def at_prompt(layer: int) -> tuple[int, Head]:
        states = [States(read[part][layer].prompts, safe[part]) for part in FITTED]
        what = f"training a head on prompts alone, layer {layer}"
        return layer, fit(states[0], states[1], training, config.seed, folder, what)

    heads = [at_prompt(layer) for layer in dict.fromkeys(training.layers)]
    layer, head = min(heads, key=lambda found: found[1].validation_loss)
    return quality.prompt_alone(parts["test"], margins(head, read["test"][layer].prompts).tolist())


def _tried(
    candidates: Sequence[Candidate], parts: Mapping[Part, LabelledSplit], on_testbed: bool
) -> dict[str, dict[str, Metric]]:
    """Metrics of each pooling on the held-out traces; none where there is nothing to choose."""
    if len(candidates) < 2:
        return {}
    return {
        each.pooling.title: quality.of_scores(
            parts["held_out"], torch.tanh(each.margins["held_out"] / 2).tolist(), on_testbed
        )
        for each in candidates
    }


def readme(card: ProbeCard, losses: Mapping[int, float]) -> str:
    """The card of a probe, as Markdown."""
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
            f"Pooling over the tokens of the trace, injected ones among them: `{card.pooling.title}`.",
            "",
            f"Cross-entropy on validation by layer, in nats, at the last token: {tried}.",
            "",
            "| on `test` | value | 95 % interval | partial traces |",
            "|---|---|---|---|",
            *(_line(name, metric) for name, metric in card.metrics.items()),
            "",
            *([PROMPT_ALONE_NOTE, ""] if any(name.startswith("prompt_alone_") for name in card.metrics) else []),
            *_poolings_table(card),
            *_positions_table(card),
            "```yaml",
            "monitor: {kind: probe, path: THIS-FOLDER}",
            "```",
            "",
        ]
    )


def _line(name: str, metric: Metric) -> str:
    return f"| {name} | {metric.value:.3f} | [{metric.low:.3f}, {metric.high:.3f}] | {metric.n} |"


def _poolings_table(card: ProbeCard) -> list[str]:
    if not card.poolings:
        return []
    return [
        "The pooling was chosen by `auc` on half of the validation prompts, which no head was fitted to or stopped by:",
        "",
        "| held out | value | 95 % interval | partial traces |",
        "|---|---|---|---|",
        *(
            _line(f"{pooling}: {name}", metrics[name])
            for pooling, metrics in card.poolings.items()
            for name in ("auc", "f1")
            if name in metrics
        ),
        "",
    ]


def _positions_table(card: ProbeCard) -> list[str]:
    if not card.thresholds:
        return []
    rows = [
        _line(f"{each.first_token}, margin {each.margin:.3f}: {name}", metric)
        for each in card.thresholds
        for name, metric in card.false_alarms[str(each.first_token)].items()
    ]
    return [
        "Score 0 has a threshold of its own for every length of trace, learned on the same held-out half. Share of "
        "safe partial traces of `test` that score below 0, without these thresholds and with them:",
        "",
        "| from so many tokens on | value | 95 % interval | partial traces |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
