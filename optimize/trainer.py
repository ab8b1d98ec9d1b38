# pyright: standard
"""A transformers Trainer's checkpoints and progress, for every training that goes on after a kill; updates by LoRA."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from safethink.errors import ConfigError

WARMUP = 0.05
"""Share of the steps over which the learning rate rises."""


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


def with_lora(
    model: PreTrainedModel,
    task_type: str,
    section: str,
    *,
    rank: int,
    alpha: int,
    targets: Sequence[str],
    first_layer: int,
) -> PeftModel:
    """Put a fresh update on the upper layers of a model.

    Args:
        model: changed in place.
        task_type: peft's name of what it is for; the head of a classifier is trained as a whole.
        section: of the configuration, for errors.
        rank: of the update.
        alpha: the update is scaled by it over the rank.
        targets: names of the linear layers that get one.
        first_layer: the layers from this one on get one.

    Raises:
        ConfigError: the model has no such layers.
    """
    num_layers = model.config.get_text_config().num_hidden_layers
    if first_layer >= num_layers:
        raise ConfigError(f"{section}.first_layer is {first_layer}, and the base has {num_layers} layers")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=list(targets),
        layers_to_transform=list(range(first_layer, num_layers)),
        task_type=task_type,
    )
    try:
        return get_peft_model(model, config)  # pyright: ignore[reportReturnType]
    except ValueError as error:
        raise ConfigError(f"{section}.targets: {str(error).strip().splitlines()[0]}") from error
