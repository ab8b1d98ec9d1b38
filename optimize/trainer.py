# pyright: standard
"""The checkpoints and the progress of a transformers Trainer, for every training that goes on after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint


def last_complete(checkpoints: Path) -> str | None:
    """The checkpoint to go on from; one that a killed run left half-written, without its last file, is deleted."""
    for folder in checkpoints.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (folder / TRAINER_STATE_NAME).is_file():
            shutil.rmtree(folder)
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


class StepProgress(TrainerCallback):
    """Shows the steps go by, those of an earlier run too."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._shown = advance, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance by the steps since the last time."""
        self._advance(state.global_step - self._shown)
        self._shown = state.global_step
