# pyright: standard
"""A linear head on hidden states as a LightningModule, trained with early stopping on validation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from optimize.monitors.config import ProbeTrainingConfig
from optimize.quiet import quiet_lightning
from safethink.progress import track

LOSS = "validation_loss"


@dataclass(frozen=True, slots=True)
class States:
    """Training set of a head.

    Attributes:
        hidden: one state per partial trace.
        safe: the probability of each being safe, as the labeller has it.
    """

    hidden: Float[Tensor, "steps hidden"]
    safe: Float[Tensor, " steps"]


@dataclass(frozen=True, slots=True)
class Head:
    """A trained head: `weight @ h + bias` is the logit of a state h being safe.

    Attributes:
        weight: standardisation folded in.
        bias: likewise.
        validation_loss: mean cross-entropy on validation, in nats.
        epochs: passes until the best one.
    """

    weight: Float[Tensor, " hidden"]
    bias: Float[Tensor, ""]
    validation_loss: float
    epochs: int


class LinearHead(LightningModule):
    """Logistic regression; begins at zero, so that nothing but the order of the batches is random.

    Args:
        hidden_size: length of a state.
        config: rates.
    """

    def __init__(self, hidden_size: int, config: ProbeTrainingConfig) -> None:
        super().__init__()
        self.linear = Linear(hidden_size, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self._config = config

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Float[Tensor, ""]:
        """Cross-entropy against the labeller's probabilities."""
        return self._loss(batch)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        """The same on validation, which decides when to stop."""
        self.log(LOSS, self._loss(batch), batch_size=len(batch[0]))

    def configure_optimizers(self) -> AdamW:
        """AdamW."""
        return AdamW(self.parameters(), lr=self._config.learning_rate, weight_decay=self._config.weight_decay)

    def _loss(self, batch: Sequence[Tensor]) -> Float[Tensor, ""]:
        hidden, safe = batch
        return binary_cross_entropy_with_logits(self.linear(hidden)[:, 0], safe)


class _Best(Callback):
    """Keeps the weights of the epoch with the lowest loss on validation, and shows the epochs go by."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self.loss, self.epochs = float("inf"), 0
        self.weights: dict[str, Tensor] = {}
        self._advance = advance

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loss = float(trainer.callback_metrics[LOSS])
        if loss < self.loss:
            self.loss, self.epochs = loss, trainer.current_epoch + 1
            self.weights = copy.deepcopy(pl_module.state_dict())
        self._advance(1)


def fit(train: States, validation: States, config: ProbeTrainingConfig, seed: int, folder: Path, what: str) -> Head:
    """Train a head.

    Args:
        train: learned from.
        validation: decides when to stop, and which epoch is kept.
        config: how fast, how long.
        seed: orders the batches.
        folder: Lightning's own; nothing is written there.
        what: shown beside the progress.
    """
    mean, spread = train.hidden.mean(0), train.hidden.std(0)
    # What never varies tells nothing, and must not be blown up.
    spread = torch.where(spread > 1e-6 * spread.max(), spread, torch.inf)
    parts = [States((part.hidden - mean) / spread, part.safe) for part in (train, validation)]
    module = LinearHead(train.hidden.shape[1], config)
    with quiet_lightning(), track(what, config.max_epochs) as advance:
        best = _Best(advance)
        trainer = Trainer(
            max_epochs=config.max_epochs,
            # A head is so small that any device would wait for its data.
            accelerator="cpu",
            devices=1,
            callbacks=[best, EarlyStopping(LOSS, patience=config.patience)],
            logger=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, _batches(parts[0], config.batch_size, seed), _batches(parts[1], config.batch_size, None))
    standardised = best.weights["linear.weight"][0].double()
    weight = standardised / spread.double()
    return Head(weight, best.weights["linear.bias"][0].double() - weight @ mean.double(), best.loss, best.epochs)


def _batches(states: States, batch_size: int, seed: int | None) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches cut out at once; in a new order every epoch where there is a seed."""
    data = TensorDataset(states.hidden, states.safe)
    order = (
        SequentialSampler(data) if seed is None else RandomSampler(data, generator=torch.Generator().manual_seed(seed))
    )
    return DataLoader(data, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None)
