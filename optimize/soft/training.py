# pyright: standard
"""Trains a soft prefix with Lightning.

One step:
    1. the objective says what the rows cost over all contexts, and where that falls;
    2. Lightning clips the gradient, and AdamW takes the step;
    3. the checkpointer writes it down, so that a training killed at any moment goes on to the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor

from optimize.config import SoftConfig
from optimize.quiet import quiet_lightning
from optimize.search.archive import Archive
from optimize.search.driver import is_over
from optimize.search.journal import Journal
from optimize.search.method import Alphabet, Ids
from optimize.search.starts import random_prefixes
from optimize.soft.checkpoint import Checkpointer
from optimize.soft.geometry import Surroundings
from optimize.soft.module import SoftPrefix, Trainable
from safethink import errors
from safethink.engines import LocalEngine
from safethink.progress import track
from safethink.seeds import stable_seed

EXTRA = "loggers"
"""Extra of this package that installs the loggers."""


def build_logger(name: Literal["tensorboard", "wandb"] | None, folder: Path) -> Logger | Literal[False]:
    """The logger called `name`, which writes below `folder`; False for none.

    Raises:
        ConfigError: what it needs is not installed.
    """
    match name:
        case None:
            return False
        case "tensorboard":
            errors.require(EXTRA, "tensorboard")
            from lightning.pytorch.loggers import TensorBoardLogger

            return TensorBoardLogger(folder, name="tensorboard", version="")
        case "wandb":
            errors.require(EXTRA, "wandb")
            from lightning.pytorch.loggers import WandbLogger

            return WandbLogger(save_dir=folder, project="safethink")


def train(
    objective: Trainable,
    engine: LocalEngine,
    vocabulary: Alphabet,
    config: SoftConfig,
    start: Ids,
    journal: Journal,
    seed: int,
    others: Sequence[Ids] = (),
) -> Archive:
    """Train until the budget is spent, or go on with what an earlier run began.

    Args:
        objective: what rows cost.
        engine: the reasoner's; it learns to read the rows that are worth trying.
        vocabulary: the tokens that random rows are the embeddings of, and that rows are described by.
        config: how long, how fast.
        start: token ids, or those of soft rows, whose embeddings the first rows are; filled up with random tokens.
        journal: keeps every step.
        seed: of those random tokens.
        others: prefixes that the engine reads already, to be measured too.

    Returns:
        What is worth trying, by the ids that the engine reads it under, and what it cost.

    Raises:
        SafeThinkError: a cost is not finite.
        RecordError: the journal belongs to another search, or could not be written.
    """
    surroundings = Surroundings(engine, vocabulary.allowed)
    checkpointer = Checkpointer(objective, surroundings, vocabulary, journal)
    begun = _first(engine, vocabulary, config, start, seed)
    rows, moments = checkpointer.resume(begun)
    module = SoftPrefix(rows.to(begun.device), objective, surroundings, config, moments)
    if not is_over(checkpointer.state, config):
        with track("training the soft prefix", config.steps) as advance:
            advance(checkpointer.state.step)
            _fit(module, checkpointer, advance, config, journal.log.parent)
    for kept in checkpointer.kept:
        journal.archive.add([engine.add_rows(kept.rows)], [kept.cost], [True])
    for ids in others:
        if ids not in journal.archive:
            with torch.no_grad():
                journal.archive.add([ids], [module.total(engine.rows(ids)).item()], [True])
    return journal.archive


def _first(
    engine: LocalEngine, vocabulary: Alphabet, config: SoftConfig, start: Ids, seed: int
) -> Float[Tensor, "length hidden"]:
    """The embeddings of the start, and of random tokens behind it."""
    generator = torch.Generator().manual_seed(stable_seed(config.kind, seed, 0))
    (ids, *_) = random_prefixes(torch.tensor(vocabulary.allowed), config.length, 1, generator, start)
    return engine.rows(ids)


def _fit(
    module: SoftPrefix, checkpointer: Checkpointer, advance: Callable[[int], None], config: SoftConfig, folder: Path
) -> None:
    """Run Lightning's trainer; it writes nothing of its own but to a logger that was asked for."""
    device = module.rows.device

    class Steps(Callback):
        """Ends every step."""

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
        ) -> None:
            checkpointer.commit(module, trainer.optimizers[0])
            advance(1)
            trainer.should_stop = is_over(checkpointer.state, config)

    with quiet_lightning():
        trainer = Trainer(
            max_epochs=1,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            gradient_clip_val=config.clip_norm,
            callbacks=[Steps()],
            logger=build_logger(config.logger, folder),
            log_every_n_steps=1,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # All contexts take part in every step, so that what is loaded is no more than the steps' numbers.
        trainer.fit(module, range(checkpointer.state.step, config.steps))
