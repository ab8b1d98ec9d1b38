# pyright: standard
"""Trains a soft prefix with Lightning.

One step:
    1. the objective says what the rows cost over all contexts, and where that falls;
    2. Lightning clips the gradient, and AdamW takes the step;
    3. the checkpointer writes it down, so that a training killed at any moment goes on to the same result.

The checkpointer keeps the rows worth trying: those that cost least, the last ones, and some spread over the steps, for
training loss is no more than a guide, and early rows, which are still near a text, may well be the better ones on
validation. They are rounded to bfloat16 before anybody tries them, so that what is chosen is what is published, in
whatever precision it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim import Optimizer

from optimize.config import SoftConfig
from optimize.quiet import quiet_lightning
from optimize.search.driver import is_over
from optimize.search.journal import Journal
from optimize.search.method import Alphabet, Archive, Ids, random_prefixes
from optimize.soft.module import SoftPrefix, TokenEmbeddings, Trainable
from safethink import errors
from safethink.engines import LocalEngine
from safethink.progress import track
from safethink.seeds import stable_seed

NUM_SPREAD = 8
"""The most rows kept on the way, evenly spread over the steps so far: a budget may end a training long before its last
step."""
EXTRA = "loggers"
"""Extra of this package that installs the loggers."""
MOMENTS = "adamw."
"""Key prefix of the optimizer's tensors in the journal."""

Rows = Float[Tensor, "length hidden"]


@dataclass(frozen=True, slots=True)
class Kept:
    """Rows that are worth trying.

    Attributes:
        step: when they were there.
        cost: what they cost then.
        rows: the rows, rounded.
    """

    step: int
    cost: float
    rows: Rows


def spacing(num_steps: int) -> int:
    """Steps between rows that are kept: a power of two, so that what is kept later was kept before."""
    return 2 ** max(0, math.ceil(math.log2(num_steps / NUM_SPREAD)))


class Checkpointer:
    """Checkpointer: writes every step to the journal and resumes from it.

    Args:
        objective: its tokens are counted; what it learned on policy is kept.
        surroundings: describes rows by the tokens near them.
        vocabulary: writes those down.
        journal: where everything goes.

    Attributes:
        state: where the training stands.
        kept: the rows worth trying, oldest first.
    """

    def __init__(
        self,
        objective: Trainable,
        surroundings: TokenEmbeddings,
        vocabulary: Alphabet,
        journal: Journal,
    ) -> None:
        self._objective, self._surroundings, self._vocabulary = objective, surroundings, vocabulary
        self._journal = journal
        self.state = journal.resume()
        self.kept: list[Kept] = []
        self._tokens_before = objective.tokens - self.state.tokens

    def resume(self, first: Rows) -> tuple[Rows, dict[str, Tensor]]:
        """The rows and the optimizer's moments to go on from; `first` and none where nothing was trained yet."""
        held = self.state.method
        if not held:
            return first, {}
        self._objective.load_state_dict(self.state.objective)
        # Only now: what was learned on policy was read once more, and counted when it first was.
        self._tokens_before = self._objective.tokens - self.state.tokens
        self.kept = [Kept(*fields) for fields in zip(held["steps"], held["costs"], held["kept"], strict=True)]
        moments = {name.removeprefix(MOMENTS): value for name, value in held.items() if name.startswith(MOMENTS)}
        return held["rows"], moments

    def commit(self, module: SoftPrefix, optimizer: Optimizer) -> None:
        """Write a finished step down.

        Raises:
            RecordError: it could not be written.
        """
        state, cost = self.state, module.cost
        now = Kept(state.step, cost["total"], module.measured.bfloat16().float().cpu())
        state.step += 1
        state.tokens = self._objective.tokens - self._tokens_before
        if now.cost < state.best:
            state.best, state.improved, state.cost = now.cost, state.step, cost
        best, every = min([*self.kept, now], key=lambda kept: kept.cost), spacing(state.step)
        self.kept = [kept for kept in self.kept if kept is best or (kept.step + 1) % every == 0] + [now]
        state.method, state.objective = self._needed(module, optimizer), self._objective.state_dict()
        self._journal.commit(state, self._line(now, cost))

    def _line(self, now: Kept, cost: dict[str, float]) -> dict[str, Any]:
        """The log's line of a step: what the rows cost, how long they are, and which tokens are near."""
        nearest = self._surroundings.nearest(now.rows)
        return {
            "step": now.step,
            "tokens": self.state.tokens,
            "cost": cost,
            "best_cost": self.state.cost,
            "mean_norm": now.rows.norm(dim=1).mean().item(),
            "nearest_ids": nearest,
            "text": self._vocabulary.text(nearest),
            "fingerprint": self._journal.fingerprint,
        }

    def _needed(self, module: SoftPrefix, optimizer: Optimizer) -> dict[str, Any]:
        """All that the next step depends on, and the rows kept."""
        moments = optimizer.state_dict()["state"][0]
        return {
            "rows": module.rows.detach(),
            "steps": [kept.step for kept in self.kept],
            "costs": [kept.cost for kept in self.kept],
            "kept": torch.stack([kept.rows for kept in self.kept]),
        } | {MOMENTS + name: moment for name, moment in moments.items()}


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
    surroundings = TokenEmbeddings(engine, vocabulary.allowed)
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
