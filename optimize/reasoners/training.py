# pyright: standard
"""LoRA on a base model by trl's SFTTrainer; a training that was killed goes on at its last checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, set_peft_model_state_dict
from peft.utils.save_and_load import load_peft_weights
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from optimize import trainer as trainers
from optimize.reasoners.config import LoraTrainingConfig
from optimize.reasoners.encoding import IGNORED, Example
from optimize.trainer import WARMUP, StepProgress, last_complete
from safethink.errors import SearchError
from safethink.frozen import Frozen
from safethink.models.adapters import quiet_peft
from safethink.progress import track

PADDED_ROWS = 4
"""Rows that are padded to one length."""


class Trained(Frozen):
    """Record of a training: `trained.json`."""

    base: str
    """Base that the adapter names."""
    base_sha256: str
    """Hash of its weights, rounded to bfloat16."""
    losses: tuple[float, ...]
    """Loss of each step, in nats per token of thinking and answer."""
    minutes: float
    """Time of the last call, without the corpus."""


class _CompletionTrainer(SFTTrainer):
    """Computes logits of completion tokens alone, which trl's own fused head does on a GPU only.

    Attributes:
        scheduled_steps: steps of the learning rate's cosine; training may end before.
    """

    scheduled_steps: int

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate over `scheduled_steps`."""
        return super().create_scheduler(self.scheduled_steps, optimizer)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean cross-entropy of the completion tokens, in nats."""
        adapted: Any = self.accelerator.unwrap_model(model)
        num_learned = (inputs["labels"][:, 1:] != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        loss = summed_loss(adapted, inputs) / num_learned
        return (loss, {}) if return_outputs else loss


def summed_loss(model: PeftModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Sum of the completion tokens' cross-entropies, in nats; rows of like length go through the model together.

    Args:
        model: a base with its update.
        inputs: `input_ids`, `attention_mask` and `labels` of padded rows.
    """
    lm: Any = model.get_base_model()
    lengths = inputs["attention_mask"].sum(dim=1)
    parts: list[Tensor] = []
    for rows in lengths.argsort().split(PADDED_ROWS):
        width = int(lengths[rows].max())
        ids, mask, labels = (inputs[name][rows, :width] for name in ("input_ids", "attention_mask", "labels"))
        states = lm.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
        learned = labels[:, 1:] != IGNORED
        logits = lm.get_output_embeddings()(states[learned]).float()
        parts.append(cross_entropy(logits, labels[:, 1:][learned], reduction="sum"))
    return torch.stack(parts).sum()


def with_lora(model: PreTrainedModel, config: LoraTrainingConfig) -> PeftModel:
    """Put a fresh update on the upper layers of a model.

    Raises:
        ConfigError: the model has no such layers.
    """
    return trainers.with_lora(
        model,
        "CAUSAL_LM",
        "training",
        rank=config.rank,
        alpha=config.alpha,
        targets=config.targets,
        first_layer=config.first_layer,
    )


def tried(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], config: LoraTrainingConfig
) -> float:
    """Tokens per second of a training step without its update of the weights, the second of two.

    Args:
        model: the base, in float32; it gets a fresh update in place.
        tokenizer: pads.
        examples: the rows of a step.
        config: LoRA.
    """
    rows = [example.as_row() for example in examples]
    inputs: dict[str, Tensor] = {}
    padding: Any = tokenizer.pad_token_id
    for name, filling in (("input_ids", padding), ("labels", IGNORED), ("attention_mask", 0)):
        ids = [torch.tensor(row.get(name, [1] * len(row["input_ids"]))) for row in rows]
        inputs[name] = pad_sequence(ids, batch_first=True, padding_value=filling).to(model.device)
    with quiet_peft():
        adapted = with_lora(model, config)
    started = 0.0
    for _ in range(2):
        started = time.perf_counter()
        summed_loss(adapted, inputs).backward()
    return sum(map(len, examples)) / (time.perf_counter() - started)


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    config: LoraTrainingConfig,
    seed: int,
    checkpoints: Path,
) -> tuple[PeftModel, list[float]]:
    """Train an update of `model`, which is changed in place.

    Args:
        model: the base, in float32.
        tokenizer: pads.
        examples: what to learn; those that are too long are left out.
        config: LoRA and its optimiser.
        seed: draws the first weights and the order of the examples.
        checkpoints: where the training's state is kept; the folder stays.

    Returns:
        The model with its update, and the loss of each step in nats per token, those of an earlier run too.

    Raises:
        SearchError: there is nothing to learn from.
    """
    fitting = [example.as_row() for example in examples if len(example) <= config.max_tokens]
    if not fitting:
        raise SearchError(f"corpus: no row has at most {config.max_tokens} tokens")
    scheduled = -(-len(fitting) // config.batch_size) * config.epochs
    num_steps = min(scheduled, config.stop_after or scheduled)
    torch.manual_seed(seed)
    with quiet_peft():
        adapted = with_lora(model, config)
        trainer = _CompletionTrainer(
            model=adapted,
            args=_arguments(config, num_steps, seed, checkpoints, model.device.type == "cpu"),
            train_dataset=Dataset.from_list(fitting),
            processing_class=tokenizer,
        )
    trainer.scheduled_steps = scheduled
    # It prints tables where there is no bar.
    trainer.remove_callback(PrinterCallback)
    with quiet_peft(), track("training the reasoner", num_steps) as advance:
        trainer.add_callback(StepProgress(advance))
        checkpoint = last_complete(checkpoints)
        state = None if checkpoint is None else TrainerState.load_from_json(str(Path(checkpoint, TRAINER_STATE_NAME)))
        if checkpoint is not None and state is not None and state.global_step >= num_steps:
            # transformers would take one step more.
            set_peft_model_state_dict(adapted, load_peft_weights(checkpoint))
            trainer.state = state
            advance(num_steps)
        else:
            trainer.train(resume_from_checkpoint=checkpoint)
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return adapted.eval(), losses


def _arguments(config: LoraTrainingConfig, num_steps: int, seed: int, checkpoints: Path, on_cpu: bool) -> SFTConfig:
    return SFTConfig(
        output_dir=str(checkpoints),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=WARMUP,
        per_device_train_batch_size=config.batch_size,
        max_steps=num_steps,
        activation_checkpointing=False,
        bf16=False,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        max_length=None,
        packing=False,
        seed=seed,
        save_steps=config.save_steps,
        save_total_limit=1,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
    )
