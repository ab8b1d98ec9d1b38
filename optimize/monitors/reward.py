# pyright: standard
"""Trains a reward model on pairs of partial traces by trl's RewardTrainer, and exports it as a transformers folder."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_callback import PrinterCallback
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from optimize.monitors import quality, sequences
from optimize.monitors.config import RewardTrainingConfig, TrainMonitorConfig
from optimize.monitors.sequences import ChatReader, Classifier
from optimize.monitors.steps import LabelledSplit, SplitName, Step
from optimize.selection.metrics import of_estimate
from optimize.trainer import StepProgress, last_complete
from safethink.errors import ConfigError, SearchError
from safethink.evaluation.statistics import Observations, rate
from safethink.prefix.artifact import Metric
from safethink.progress import progress, track
from safethink.prompts import Prompt
from safethink.seeds import stable_seed


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
    classifier = sequences.load(training.base, training.revision, config.run.reasoner.device)
    model, tokenizer, reader = classifier.model, classifier.tokenizer, _Reader(classifier)
    data = {name: reader.dataset(pairs(splits[name], training, config.seed)) for name in ("search", "validation")}
    _fit(model, tokenizer, data, training, config.seed, out / CHECKPOINTS)
    metrics = _measure(reader, splits["test"], training, config)
    sequences.export(model, tokenizer, folder, "A reward model of partial traces", quality.PROMPT_ALONE_NOTE, metrics)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return metrics


class _Reader(ChatReader):
    """Puts partial traces to a reward model."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__(classifier)
        self._model, self._tokenizer = classifier.model, classifier.tokenizer

    def dataset(self, wanted: Sequence[Pair]) -> Dataset:
        """Pairs as trl takes them, those left out that do not fit into the context window."""
        rows = [(self.ids(pair.prompt, pair.chosen), self.ids(pair.prompt, pair.rejected)) for pair in wanted]
        fitting = [row for row in rows if self.limit is None or max(map(len, row)) <= self.limit]
        if not fitting:
            raise ConfigError(f"monitor.base: no pair fits into its context window of {self.limit} tokens")
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
    prompts = {step.prompt.id: step.prompt for step in test.steps}
    alone = dict(zip(prompts, reader.rewards([(prompt, "") for prompt in prompts.values()]), strict=True))
    metrics |= quality.prompt_alone(test, [alone[step.prompt.id] for step in test.steps])
    held_out = pairs(test, training.replace(borrow=False), config.seed)
    both = reader.rewards([(each.prompt, text) for each in held_out for text in (each.chosen, each.rejected)])
    right = [float(one > other) for one, other in zip(both[::2], both[1::2], strict=True)]
    units, clusters = [each.prompt.id for each in held_out], [each.prompt.clusters for each in held_out]
    accuracy = rate(Observations.of(right, units, clusters))
    return metrics if accuracy is None else metrics | {"pair_accuracy": of_estimate(accuracy)}
