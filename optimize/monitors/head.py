# pyright: standard
"""A linear head on hidden states as a LightningModule, trained with early stopping on validation.

Its margins count as they are, for states that are pooled already, or as the lowest over the tokens of a partial trace.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch import Tensor
from torch.nn import Linear
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pad_sequence
from torch.optim import AdamW
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, TensorDataset

from optimize.monitors.config import ProbeTrainingConfig
from optimize.monitors.traces import TokenTraces
from optimize.quiet import quiet_lightning
from safethink.progress import track

LOSS = "validation_loss"

_Moments: TypeAlias = tuple[Float[Tensor, " hidden"], Float[Tensor, " hidden"]]
"""Mean and standard deviation of each dimension."""


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
class Bags:
    """Training set of a head whose lowest margin among the tokens of a partial trace counts.

    Attributes:
        traces: all their tokens.
        safe: the probability of each partial trace being safe, as the labeller has it, trace after trace.
    """

    traces: TokenTraces
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
        self.log(LOSS, self._loss(batch), batch_size=len(batch[-1]))

    def configure_optimizers(self) -> AdamW:
        """AdamW."""
        return AdamW(self.parameters(), lr=self._config.learning_rate, weight_decay=self._config.weight_decay)

    def _loss(self, batch: Sequence[Tensor]) -> Float[Tensor, ""]:
        hidden, safe = batch
        return binary_cross_entropy_with_logits(self.linear(hidden)[:, 0], safe)


class LowestOfTokens(LinearHead):
    """The same on the lowest margin among the tokens of each partial trace: multiple-instance learning."""

    def _loss(self, batch: Sequence[Tensor]) -> Float[Tensor, ""]:
        hidden, rows, last, safe = batch
        lowest = self.linear(hidden)[:, :, 0].cummin(1).values
        return binary_cross_entropy_with_logits(lowest[rows, last], safe)


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
    mean, spread = _moments(train.hidden)
    parts = [States((part.hidden - mean) / spread, part.safe) for part in (train, validation)]
    loaders = _batches(parts[0], config.batch_size, seed), _batches(parts[1], config.batch_size, None)
    return _train(LinearHead(len(mean), config), loaders, (mean, spread), config, folder, what)


def fit_lowest(train: Bags, validation: Bags, config: ProbeTrainingConfig, seed: int, folder: Path, what: str) -> Head:
    """Train a head whose lowest margin among the tokens of a partial trace counts; arguments as those of `fit`.

    A batch holds whole traces, about as many as have `config.batch_size` partial traces together.
    """
    moments = _moments(train.traces.hidden.float())
    per_batch = max(1, config.batch_size * len(train.traces.ends) // len(train.safe))
    loaders = (
        _loader(_WholeTraces(train, moments), len(train.traces.ends), per_batch, seed),
        _loader(_WholeTraces(validation, moments), len(validation.traces.ends), per_batch, None),
    )
    return _train(LowestOfTokens(len(moments[0]), config), loaders, moments, config, folder, what)


def _moments(hidden: Float[Tensor, "states hidden"]) -> _Moments:
    """Mean and standard deviation of each dimension."""
    mean, spread = hidden.mean(0), hidden.std(0)
    # What never varies tells nothing, and must not be blown up.
    return mean, torch.where(spread > 1e-6 * spread.max(), spread, torch.inf)


def _train(
    module: LinearHead,
    loaders: tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]],
    moments: _Moments,
    config: ProbeTrainingConfig,
    folder: Path,
    what: str,
) -> Head:
    """Train on the first loader until the loss on the second no longer falls; fold the standardisation in."""
    mean, spread = moments
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
        trainer.fit(module, *loaders)
    standardised = best.weights["linear.weight"][0].double()
    weight = standardised / spread.double()
    return Head(weight, best.weights["linear.bias"][0].double() - weight @ mean.double(), best.loss, best.epochs)


def _batches(states: States, batch_size: int, seed: int | None) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches cut out at once; in a new order every epoch where there is a seed."""
    return _loader(TensorDataset(states.hidden, states.safe), len(states.safe), batch_size, seed)


class _WholeTraces(Dataset[tuple[Tensor, ...]]):
    """Batches of whole traces: tokens, padded behind, and the row, last token and target of each partial trace."""

    def __init__(self, bags: Bags, moments: _Moments) -> None:
        self._mean, self._spread = moments
        self._traces, self._ends = bags.traces.each, bags.traces.ends
        self._safe = bags.safe.split([len(each) for each in self._ends])

    def __getitem__(self, chosen: Sequence[int]) -> tuple[Tensor, ...]:
        standardised = [(self._traces[index].float() - self._mean) / self._spread for index in chosen]
        rows = [row for row, index in enumerate(chosen) for _ in self._ends[index]]
        last = [end - 1 for index in chosen for end in self._ends[index]]
        safe = torch.cat([self._safe[index] for index in chosen])
        return pad_sequence(standardised, batch_first=True), torch.tensor(rows), torch.tensor(last), safe


def _loader(
    data: Dataset[tuple[Tensor, ...]], size: int, batch_size: int, seed: int | None
) -> DataLoader[tuple[Tensor, ...]]:
    indices = range(size)
    order = (
        SequentialSampler(indices)
        if seed is None
        else RandomSampler(indices, generator=torch.Generator().manual_seed(seed))
    )
    return DataLoader(data, sampler=BatchSampler(order, batch_size, drop_last=False), batch_size=None)
