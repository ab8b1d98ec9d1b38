# pyright: standard
"""Trains a reward model on pairs of partial traces by trl's RewardTrainer, and exports it as a transformers folder.

The folder has the classifier (`num_labels` 1) and its tokenizer with the chat template: what a `reward` monitor takes.
A partial trace is read as the assistant's turn behind the prompt, the whole chat rendered once.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch.nn import Module
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.trainer_callback import PrinterCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from optimize.monitors import quality
from optimize.monitors.config import RewardTrainingConfig, TrainMonitorConfig
from optimize.monitors.steps import LabelledSplit, SplitName, Step
from optimize.selection.metrics import of_estimate
from optimize.trainer import StepProgress, last_complete
from safethink.errors import ConfigError, SearchError
from safethink.evaluation.statistics import Observations, rate
from safethink.files import atomic_write, write_text
from safethink.models.loading import context_window, found, pick_device
from safethink.prefix.artifact import Metric
from safethink.progress import progress, track
from safethink.prompts import Message, Prompt
from safethink.seeds import stable_seed
from safethink.testbed import folders
from safethink.thinking.chat import ChatEncoder


@dataclass(frozen=True, slots=True)
class Pair:
    """Two partial traces of one prompt.

    Attributes:
        prompt: what was asked.
        chosen: the trace that was labelled safe.
        rejected: the one that was labelled unsafe.
    """

    prompt: Prompt
    chosen: str
    rejected: str


def pairs(split: LabelledSplit, config: RewardTrainingConfig, seed: int) -> list[Pair]:
    """Pair what was labelled safe with what was labelled unsafe, traces of like depth first.

    Args:
        split: labelled partial traces, several of each prompt.
        config: how many of each prompt, and whether prompts without an unsafe trace borrow one.
        seed: chooses among equals.

    Raises:
        SearchError: no prompt has both, and none may borrow.
    """
    by_prompt: dict[str, list[Step]] = defaultdict(list)
    for step in split.steps:
        by_prompt[step.prompt.id].append(step)
    unsafe_anywhere = _unique(step for step in split.steps if step.score < split.threshold)
    found: list[Pair] = []
    for prompt_id, steps in by_prompt.items():
        safe = _unique(step for step in steps if step.score >= split.threshold)
        unsafe = _unique(step for step in steps if step.score < split.threshold)
        if not unsafe and config.borrow:
            unsafe = _borrowed(unsafe_anywhere, config.pairs_per_prompt, stable_seed(seed, "borrow", prompt_id))
        couples = sorted(
            ((one, other) for one in safe for other in unsafe),
            key=lambda couple: (abs(couple[0].depth - couple[1].depth), _drawn(couple, seed)),
        )
        found += [Pair(one.prompt, one.trace, other.trace) for one, other in couples[: config.pairs_per_prompt]]
    if not found:
        raise SearchError(f"no prompt of {split.name} has both a safe and an unsafe trace: raise samples, or borrow")
    return found


def _unique(steps: Iterator[Step]) -> list[Step]:
    """Each text once; an empty trace says nothing."""
    return list({step.trace: step for step in steps if step.trace.strip()}.values())


def _borrowed(unsafe: Sequence[Step], count: int, start: int) -> list[Step]:
    return [unsafe[(start + place) % len(unsafe)] for place in range(min(count, len(unsafe)))]


def _drawn(couple: tuple[Step, Step], seed: int) -> int:
    return stable_seed(seed, "pair", couple[0].prompt.id, couple[0].trace, couple[1].trace)


CHECKPOINTS = "checkpoints"
"""Folder of the training's own state; a killed training goes on from it."""
SCORED_AT_ONCE = 64


def train(
    config: TrainMonitorConfig,
    training: RewardTrainingConfig,
    splits: Mapping[SplitName, LabelledSplit],
    out: Path,
    folder: Path,
) -> dict[str, Metric]:
    """Train a reward model and write its folder, whole or not at all.

    Args:
        config: everything but how the model is trained.
        training: how it is.
        splits: labelled partial traces.
        out: the training's checkpoints are kept below it while it runs.
        folder: where the model goes.

    Returns:
        What was measured on `test`, by name.

    Raises:
        MissingFileError: there is no model to start from.
        ConfigError: it has no chat template.
        SearchError: there are no pairs.
    """
    torch.manual_seed(config.seed)
    model, tokenizer = _load(training, pick_device(config.run.reasoner.device))
    reader = _Reader(model, tokenizer)
    data = {name: reader.dataset(pairs(splits[name], training, config.seed)) for name in ("search", "validation")}
    _fit(model, tokenizer, data, training, config.seed, out / CHECKPOINTS)
    metrics = _measure(reader, splits["test"], training, config)
    _export(model, tokenizer, folder, metrics)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return metrics


class _Reader:
    """Puts partial traces to a reward model."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._encoder = ChatEncoder(tokenizer)
        self._limit = context_window(model)

    def ids(self, prompt: Prompt, trace: str) -> tuple[int, ...]:
        """The whole chat; control tokens come from the template alone."""
        return self._encoder.chat((*prompt.messages, Message(role="assistant", content=trace))).ids

    def dataset(self, wanted: Sequence[Pair]) -> Dataset:
        """Pairs as trl takes them, those left out that do not fit into the context window."""
        rows = [(self.ids(pair.prompt, pair.chosen), self.ids(pair.prompt, pair.rejected)) for pair in wanted]
        fitting = [row for row in rows if self._limit is None or max(map(len, row)) <= self._limit]
        if not fitting:
            raise ConfigError(f"monitor.base: no pair fits into its context window of {self._limit} tokens")
        return Dataset.from_dict(
            {"chosen_ids": [list(one) for one, _ in fitting], "rejected_ids": [list(other) for _, other in fitting]}
        )

    @torch.inference_mode()
    def rewards(self, texts: Sequence[tuple[Prompt, str]]) -> list[float]:
        """The reward of each partial trace; 0 lies between safe and unsafe."""
        rewards: list[float] = []
        starts = range(0, len(texts), SCORED_AT_ONCE)
        for start in progress(starts, "measuring the reward model on test", len(starts)):
            chats = [list(self.ids(*text)) for text in texts[start : start + SCORED_AT_ONCE]]
            batch = self._tokenizer.pad({"input_ids": chats}, padding_side="right", return_tensors="pt")
            rewards += self._model(**batch.to(self._model.device)).logits[:, 0].float().tolist()
        return rewards


def _load(config: RewardTrainingConfig, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    path = str(folders().guard) if config.base == "testbed" else config.base
    with found("model", path):
        tokenizer = AutoTokenizer.from_pretrained(path, revision=config.revision)
        model = AutoModelForSequenceClassification.from_pretrained(
            path, revision=config.revision, num_labels=1, dtype=torch.float32
        )
    if not tokenizer.chat_template:
        raise ConfigError(f"monitor.base: {config.base!r} has no chat template")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Set here as trl does, because the rewards are read without it too.
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    Module.to(model, device)
    return model, tokenizer


def _fit(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Mapping[str, Dataset],
    training: RewardTrainingConfig,
    seed: int,
    checkpoints: Path,
) -> None:
    arguments = RewardConfig(
        output_dir=str(checkpoints),
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        num_train_epochs=training.epochs,
        center_rewards_coefficient=training.center_rewards_coefficient,
        activation_checkpointing=training.activation_checkpointing,
        bf16=training.bf16,
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type != "cpu",
        max_length=None,
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
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=data["search"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
    )
    num_batches = -(-len(data["search"]) // training.batch_size) * training.epochs
    # It prints tables where there is no bar.
    trainer.remove_callback(PrinterCallback)
    with track("training the reward model", num_batches) as advance:
        trainer.add_callback(StepProgress(advance))
        trainer.train(resume_from_checkpoint=last_complete(checkpoints))
    model.eval()


def _measure(
    reader: _Reader, test: LabelledSplit, training: RewardTrainingConfig, config: TrainMonitorConfig
) -> dict[str, Metric]:
    """On `test`: agreement of single scores, and how often the safer trace of a pair has the higher reward."""
    rewards = reader.rewards([(step.prompt, step.trace) for step in test.steps])
    metrics = quality.of_scores(test, rewards, on_testbed=config.on_testbed)
    held_out = pairs(test, training.replace(borrow=False), config.seed)
    both = reader.rewards([(each.prompt, text) for each in held_out for text in (each.chosen, each.rejected)])
    right = [float(one > other) for one, other in zip(both[::2], both[1::2], strict=True)]
    units, clusters = [each.prompt.id for each in held_out], [each.prompt.clusters for each in held_out]
    accuracy = rate(Observations.of(right, units, clusters))
    return metrics if accuracy is None else metrics | {"pair_accuracy": of_estimate(accuracy)}


def _export(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, metrics: Mapping[str, Metric]
) -> None:
    rows = [
        f"| {name} | {each.value:.3f} | [{each.low:.3f}, {each.high:.3f}] | {each.n} |"
        for name, each in metrics.items()
    ]
    table = "\n".join(["| on `test` | value | 95 % interval | n |", "|---|---|---|---|", *rows])
    usage = "```yaml\nmonitor: {kind: reward, path: THIS-FOLDER}\n```"
    with atomic_write(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_text(partial / "README.md", f"# A reward model of partial traces\n\n{table}\n\n{usage}\n")
