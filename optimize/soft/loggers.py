"""Lightning's own loggers, where one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning.pytorch.loggers import Logger

from safethink import errors

EXTRA = "loggers"
"""What to install for them."""


def build(name: Literal["tensorboard", "wandb"] | None, folder: Path) -> Logger | Literal[False]:
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
