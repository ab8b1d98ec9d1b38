"""The sections of a study. Imports neither torch nor Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from optimize.config import SearchConfig, refuse_devices
from safethink.config import Section, yaml_config
from safethink.errors import ConfigError

Value: TypeAlias = str | int | float | bool | None


class Choice(Section):
    """One of several values."""

    kind: Literal["choice"] = "choice"
    values: tuple[Value, ...] = Field(min_length=1)


class IntRange(Section):
    """A whole number."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    """Whether it is searched on a logarithmic scale."""


class FloatRange(Section):
    """A number."""

    kind: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    """Whether it is searched on a logarithmic scale."""


Axis = Annotated[Choice | IntRange | FloatRange, Field(discriminator="kind")]

Goal: TypeAlias = Literal["recovery_rate", "asr", "accuracy_loss", "length"]
"""Objective of a trial, all on validation: the recovery rate of the prefix it found (more is better); the ASR of
the reasoner guarded with it, what that costs in accuracy, and the number of its tokens (less is better)."""


class StudyConfig(Section):
    """Configuration of `safethink-optimize study`."""

    base: SearchConfig
    """The search that every trial runs, but for what `space` changes."""
    space: dict[str, Axis] = Field(min_length=1)
    """Search space, by dotted keys of `base`: `search.length`, `run.defense.threshold`, ..."""
    goals: tuple[Goal, ...] = Field(default=("asr",), min_length=1)
    """One goal is optimised; several give a Pareto front."""
    trials: int = Field(default=20, ge=1)
    """Finished trials after which the study ends, pruned ones included."""
    workers: int = Field(default=1, ge=1)
    """Processes on this machine. Others join from elsewhere by the same command and the same `storage`."""
    storage: str | None = None
    """Database URL of Optuna's storage, `postgresql+psycopg://...` for several machines; None keeps `OUT/study.db`."""
    name: str = "prefix"
    """Name of the study in its storage."""
    sampler: Literal["tpe", "random"] = "tpe"
    """Optuna's sampler."""
    pruner: Literal["wilcoxon", "none"] = "wilcoxon"
    """Stops a trial whose prompts so far come out worse than the best trial's; for the goal `asr` alone, the one that
    is measured prompt by prompt."""
    prompts: int = Field(default=96, ge=1)
    """Validation prompts of each kind on which a guarded trial is judged."""
    heartbeat_s: int = Field(default=30, ge=1)
    """A worker that gave no sign of life for twice this long is taken for dead, and its trial is tried again."""
    retries: int = Field(default=1, ge=0)
    """Number of new attempts at a trial whose worker died."""
    seed: int = 0
    """Seeds the samplers."""

    @model_validator(mode="after")
    def _space_fits(self) -> StudyConfig:
        for key, axis in self.space.items():
            for value in _samples(axis):
                try:
                    refuse_devices(self.variant({key: value}))
                except ConfigError as error:
                    raise ValueError(f"space.{error}") from error
        return self

    @model_validator(mode="after")
    def _trials_share_nothing(self) -> StudyConfig:
        refuse_devices(self.base)
        return self

    def variant(self, changes: Mapping[str, Value]) -> SearchConfig:
        """The search of a trial.

        Args:
            changes: values by dotted key of `base`.

        Raises:
            ConfigError: a key or a value that does not fit.
        """
        return yaml_config.override(self.base, changes, "base")


def _samples(axis: Axis) -> tuple[Value, ...]:
    """Values that tell whether the axis fits: all of a choice, the ends of a range, and a number between."""
    if isinstance(axis, Choice):
        return axis.values
    if axis.high < axis.low:
        raise ValueError(f"a range from {axis.low} to {axis.high} is empty")
    if axis.log and axis.low <= 0:
        raise ValueError(f"a logarithmic range from {axis.low} has no beginning; it must be above 0")
    if isinstance(axis, FloatRange):
        # The ends may be whole numbers, and pass where no other value would.
        return axis.low, axis.high, axis.low + (axis.high - axis.low) / math.pi
    return axis.low, axis.high
