# pyright: standard
"""Trains a small Qwen3-architecture model on examples whose branch points carry soft labels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from optimize.testbed.corpus import Example
from optimize.testbed.tokenizer import CONTEXT_TOKENS
from safethink.files import atomic_write

SPARE_ROWS: Final = 32
"""Embedding rows that no token uses yet, for tags that later methods add."""
CHECKPOINT_STEPS: Final = 100
PADDED_ROWS: Final = 12
"""Rows that are padded to one length."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Length and speed of a training.

    Attributes:
        steps: optimiser steps.
        batch_size: examples per step.
        learning_rate: peak of the cosine.
        long_every: every so many steps a batch of long examples is taken instead.
    """

    steps: int
    batch_size: int = 48
    learning_rate: float = 2e-3
    long_every: int = 40


def build_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int, n_layers: int) -> Qwen3ForCausalLM:
    """A fresh model with room for `SPARE_ROWS` more tokens."""
    config = Qwen3Config(
        vocab_size=len(tokenizer) + SPARE_ROWS,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden_size // 4,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 1e3},
        initializer_range=0.06,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.get_vocab()[str(tokenizer.eos_token)],
        pad_token_id=tokenizer.get_vocab()[str(tokenizer.pad_token)],
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def fit(
    model: Qwen3ForCausalLM,
    plan: TrainingPlan,
    batch: Callable[[int], Sequence[Example]],
    advance: Callable[[], None],
    checkpoint: Path,
) -> float:
    """Train in place; returns the seconds this call took.

    Args:
        model: the model.
        plan: steps and rates.
        batch: the examples of step number k; a function of k alone, so that a killed training can go on.
        advance: called after every step.
        checkpoint: where the state is kept while training; removed at the end.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan.steps))
    begin = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        begin = schedule.last_epoch
    started = time.monotonic()
    model.train()
    for step in range(plan.steps):
        if step >= begin:
            loss = example_loss(model, batch(step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if (step + 1) % CHECKPOINT_STEPS == 0:
                states = {"model": model, "optimizer": optimizer, "schedule": schedule}
                _save({name: part.state_dict() for name, part in states.items()}, checkpoint)
        advance()
    model.eval()
    checkpoint.unlink(missing_ok=True)
    return time.monotonic() - started


def _rate(step: int, steps: int) -> float:
    """Warm-up over the first twentieth, then a cosine down to a fiftieth."""
    warmup = max(1, steps // 20)
    return min((step + 1) / warmup, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _save(state: dict[str, object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        torch.save(state, partial)


def example_loss(model: Qwen3ForCausalLM, examples: Sequence[Example]) -> Float[Tensor, ""]:
    """Mean cross-entropy over learned tokens; at a branch the target is the world's own distribution over two tokens.

    Examples of like length go through the model together, so that little is padded; the mean is over the whole batch.
    """
    ordered = sorted(examples, key=lambda example: len(example.ids))
    losses = [_token_losses(model, ordered[i : i + PADDED_ROWS]) for i in range(0, len(ordered), PADDED_ROWS)]
    return torch.cat(losses).mean()


def _token_losses(model: Qwen3ForCausalLM, examples: Sequence[Example]) -> Float[Tensor, " target"]:
    width = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), width), model.config.pad_token_id or 0)
    places: list[tuple[int, int, int, int]] = []
    weights: list[float] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        for position, learned in enumerate(example.learned):
            if learned:
                other, probability = example.branches.get(position, (example.ids[position], 0.0))
                places.append((row, position - 1, example.ids[position], other))
                weights.append(probability)
    hidden = model.model(input_ids=ids).last_hidden_state
    table: Int[Tensor, "target 4"] = torch.tensor(places)
    weight: Float[Tensor, " target"] = torch.tensor(weights)
    scores = log_softmax(model.lm_head(hidden[table[:, 0], table[:, 1]]).float(), dim=-1)
    chosen = scores.gather(1, table[:, 2:3]).squeeze(1)
    other = scores.gather(1, table[:, 3:4]).squeeze(1)
    return -((1 - weight) * chosen + weight * other)
