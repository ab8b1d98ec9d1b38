# pyright: standard
"""Trains a classifier of text on single partial traces by cross-entropy, whole or by LoRA, and exports it.

Its output r is half the log-odds of the trace being safe: the loss is the cross-entropy of sigmoid(2 r). A `reward`
monitor, whose score is tanh(r), then gives 2 P(safe) - 1.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from optimize import trainer as trainers
from optimize.monitors import quality, sequences
from optimize.monitors.config import ClassifierTrainingConfig, TrainMonitorConfig
from optimize.monitors.sequences import ChatReader
from optimize.monitors.steps import LabelledSplit, SplitName, Step
from optimize.trainer import WARMUP, StepProgress, last_complete
from safethink.errors import ConfigError
from safethink.models.adapters import quiet_peft
from safethink.monitors import ScoreRequest
from safethink.monitors.reward import RewardMonitor, Scale
from safethink.monitors.reward_models import SequenceScorer
from safethink.prefix.artifact import Metric
from safethink.progress import track
from safethink.seeds import stable_seed

CHECKPOINTS = "checkpoints"
"""Folder of the training's own state; a killed training goes on from it."""
TRACES_AT_ONCE = 32
"""Traces read side by side on `test`."""


def train(
    config: TrainMonitorConfig,
    training: ClassifierTrainingConfig,
    splits: Mapping[SplitName, LabelledSplit],
    labeller: str,
    out: Path,
    folder: Path,
) -> dict[str, Metric]:
    """Train a classifier and write its folder, whole or not at all.

    Args:
        config: everything but how the model is trained.
        training: how it is.
        splits: labelled partial traces.
        labeller: name of what labelled them, for the card.
        out: the training's checkpoints are kept below it while it runs.
        folder: where the model goes.

    Returns:
        What was measured on `test`, by name.

    Raises:
        MissingFileError: there is no model to start from.
        ConfigError: it has no chat template or no such layers, or no partial trace is short enough.
    """
    torch.manual_seed(config.seed)
    base = sequences.load(training.base, training.revision, config.run.reasoner.device, training.gguf_file)
    reader = ChatReader(base)
    data = {name: dataset(splits[name], reader, training) for name in ("search", "validation")}
    trained = _adapted(base.model, training)
    scorer = SequenceScorer(_bare(trained))
    losses = _fit(trained, scorer, data, training, config.seed, out / CHECKPOINTS)
    monitor = RewardMonitor(scorer.eval(), base.tokenizer, Scale(), batch_size=TRACES_AT_ONCE)
    scores, of_prompts = read_traces(monitor, splits["test"])
    metrics = quality.of_scores(splits["test"], scores, config.on_testbed)
    metrics |= quality.prompt_alone(splits["test"], of_prompts)
    said = card(training, labeller, {name: len(rows) for name, rows in data.items()}, losses)
    sequences.export(trained, base.tokenizer, folder, "A classifier of partial traces", said, metrics)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return metrics


def dataset(split: LabelledSplit, reader: ChatReader, training: ClassifierTrainingConfig) -> Dataset:
    """The partial traces that are learned from as token ids, with the probability of each being safe.

    Raises:
        ConfigError: none is short enough.
    """
    safe = iter(split.safe_probabilities)
    labelled = [[(step, next(safe)) for step in trace] for trace in split.traces]
    drawn = [pair for trace in labelled for pair in sorted(trace, key=_lot)[: training.steps_per_trace]]
    rows = [{"ids": list(reader.ids(step.prompt, step.trace)), "labels": label} for step, label in drawn]
    most = min(training.max_tokens, reader.limit or training.max_tokens)
    fitting = [row | {"length": len(row["ids"])} for row in rows if len(row["ids"]) <= most]
    if not fitting:
        raise ConfigError(f"monitor.max_tokens: no partial trace of {split.name} has at most {most} tokens")
    return Dataset.from_list(fitting)


def read_traces(monitor: RewardMonitor, split: LabelledSplit) -> tuple[list[float], list[float]]:
    """The score of every partial trace as a guarded run gets it, and that of no trace at all behind its prompt."""
    scores: list[float] = []
    of_prompts: list[float] = []
    with track(f"reading {split.name} traces", len(split.traces)) as advance:
        for start in range(0, len(split.traces), TRACES_AT_ONCE):
            traces = split.traces[start : start + TRACES_AT_ONCE]
            found: list[list[float]] = [[] for _ in traces]
            for depth in range(max(map(len, traces)) + 1):
                rows = [row for row, trace in enumerate(traces) if depth <= len(trace)]
                asked = [(row, traces[row][0].prompt, traces[row][depth - 1].trace if depth else "") for row in rows]
                scored = monitor.score([ScoreRequest(*each) for each in asked])
                for row, score in zip(rows, scored, strict=True):
                    found[row].append(score)
            for row, (bare, *others) in enumerate(found):
                monitor.release(row)
                scores += others
                of_prompts += [bare] * len(others)
            advance(len(traces))
    return scores, of_prompts


def card(
    training: ClassifierTrainingConfig, labeller: str, num_rows: Mapping[str, int], losses: Sequence[float]
) -> str:
    """Paragraphs of the card behind the table of metrics."""
    base = training.base_name or training.base
    what = "all weights" if training.lora is None else f"LoRA of rank {training.lora.rank}"
    by_epoch = ", ".join(f"{loss:.4f}" for loss in losses)
    return "\n\n".join(
        [
            f"{quality.PROMPT_ALONE_NOTE} It was trained on no empty trace.",
            "The output is half the log-odds of a partial trace being safe; its tanh, the score, is 2 P(safe) - 1.",
            f"Trained from `{base}` ({what}) on {num_rows['search']} partial traces, labelled by `{labeller}`; "
            f"cross-entropy on {num_rows['validation']} of validation by epoch, in nats, the lowest kept: {by_epoch}.",
        ]
    )


class _CrossEntropyTrainer(Trainer):
    """Reads the head where a monitor reads it, behind the last token, whatever the padding is.

    Attributes:
        scorer: the model in training as a monitor reads it.
    """

    scorer: SequenceScorer

    def compute_loss(
        self,
        model: Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy, in nats."""
        mask = inputs["attention_mask"]
        outputs = self.scorer(input_ids=inputs["input_ids"], attention_mask=mask, use_cache=False)
        rewards = outputs.logits[torch.arange(len(mask), device=mask.device), mask.sum(dim=1) - 1, 0]
        loss = binary_cross_entropy_with_logits(2 * rewards.float(), inputs["labels"])
        return (loss, {}) if return_outputs else loss


def _lot(pair: tuple[Step, float]) -> int:
    step, _ = pair
    return stable_seed("steps per trace", step.prompt.id, step.trace)


def _adapted(model: PreTrainedModel, training: ClassifierTrainingConfig) -> PreTrainedModel | PeftModel:
    """The model with a fresh update, whose base has its hub's name; or as it is."""
    lora = training.lora
    if lora is None:
        return model
    sizes = {"rank": lora.rank, "alpha": lora.alpha, "targets": lora.targets, "first_layer": lora.first_layer}
    with quiet_peft():
        adapted = trainers.with_lora(model, "SEQ_CLS", "monitor.lora", **sizes)
    described = adapted.active_peft_config
    described.base_model_name_or_path = training.base_name or sequences.located(training.base)
    described.revision = training.revision
    return adapted


def _bare(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return cast("PreTrainedModel", model.get_base_model()) if isinstance(model, PeftModel) else model


def _fit(
    model: PreTrainedModel | PeftModel,
    scorer: SequenceScorer,
    data: Mapping[str, Dataset],
    training: ClassifierTrainingConfig,
    seed: int,
    checkpoints: Path,
) -> list[float]:
    """Train; the weights of the best epoch are the model's in the end. Returns the loss on validation of each epoch."""
    on_cpu = _bare(model).device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        num_train_epochs=training.epochs,
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        label_names=["labels"],
        prediction_loss_only=True,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        seed=seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    with quiet_peft():
        trainer = _CrossEntropyTrainer(
            model=model,
            args=arguments,
            train_dataset=data["search"],
            eval_dataset=data["validation"],
            data_collator=_padded,
        )
    trainer.scorer = scorer
    # It prints tables where there is no bar.
    trainer.remove_callback(PrinterCallback)
    num_steps = -(-len(data["search"]) // training.batch_size) * training.epochs
    with quiet_peft(), track("training the classifier", num_steps) as advance:
        trainer.add_callback(StepProgress(advance))
        trainer.train(resume_from_checkpoint=last_complete(checkpoints))
    model.eval()
    return [float(entry["eval_loss"]) for entry in trainer.state.log_history if "eval_loss" in entry]


def _padded(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """A batch, padded behind; padding is masked, so any token will do."""
    ids = [torch.tensor(row["ids"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], batch_first=True),
        "labels": torch.tensor([float(row["labels"]) for row in rows]),
    }
