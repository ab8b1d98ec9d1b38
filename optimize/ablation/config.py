"""The sections of an ablation. Imports no torch, so help and validation are instant."""

from __future__ import annotations

from typing import Any, Final

from pydantic import Field, field_validator, model_validator

from optimize.config import SearchConfig
from safethink.config import Section, yaml_config
from safethink.config.yaml_config import shipped_config

LENGTH: Final = "search.length"
"""The axis along which a cell can start from another one's artifact."""

_NO_AXES: Final = {"seed": "seeds stand in `seeds`", "contexts.path": "contexts are shared by all cells"}


class MeasureConfig(Section):
    """Numbers of prompts and samples that a prefix is measured on; of prompts of one's own, all of their split."""

    jailbreak: int = Field(default=100, ge=1)
    """Attack prompts; those on which the monitor fires give the contexts of the recovery rate."""
    harmless: int = Field(default=300, ge=0)
    """Tasks for the accuracy, with the prefix forced in and, where `samples` is above 0, under the defense."""
    borderline: int = Field(default=300, ge=0)
    """Borderline prompts for the over-refusal, likewise."""
    samples: int = Field(default=0, ge=0)
    """Seeds per prompt under the defense: what ASR, accuracy and over-refusal rest on; 0 leaves them out."""
    recovery_samples: int = Field(default=2, ge=0)
    """Seeds per context; 0 leaves recovery rate and lift out."""
    forced_samples: int = Field(default=1, ge=0)
    """Seeds per prompt that the prefix is forced into; 0 leaves the forced columns out."""


class MethodVariant(Section):
    """One way to come by a prefix: overrides of the base, by dotted keys."""

    set: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Overrides of the base, by dotted key: `{search.kind: random}`."""
    learn: bool = True
    """Whether a prefix is searched for; else `run.prefix` is taken as it is."""
    phrases: tuple[str, ...] = ()
    """Nothing is searched: of these texts, those with `search.length` tokens are put on trial as a search's finalists
    are, and the best one is taken."""
    warm_start: bool = False
    """Whether a longer cell starts from the artifact of the next shorter one."""


class AblationConfig(Section):
    """Configuration of `safethink-optimize ablate`: one cell for each method, value of every axis, and seed."""

    base: SearchConfig
    """Search that all cells share; in a file also the path or the shipped name of a search's configuration."""
    axes: dict[str, tuple[Any, ...]] = Field(min_length=1)
    """Values by dotted key of the base, the axis of the figures first: `{search.length: [1, 2, 4]}`."""
    methods: dict[str, MethodVariant] = Field(default_factory=lambda: {"search": MethodVariant()}, min_length=1)
    """Ways to come by a prefix, by name."""
    controls: tuple[str, ...] = ()
    """Methods that every other one is compared with, paired."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Seeds of the search; rollouts and measurements keep `run.seed`, so that cells are paired."""
    validation: MeasureConfig | None = MeasureConfig()
    """Prompts and samples that every cell is measured on; None takes what the choice of its prefix saw: recovery, and
    the cost of forcing, in the states and by the judge that chose it."""
    test: MeasureConfig | None = None
    """Prompts and samples of `test` on which the validation-best seed of each method and place is reported; None leaves
    `test` alone."""
    workers: int = Field(default=2, ge=1)
    """Processes, one thread each."""

    @field_validator("base", mode="before")
    @classmethod
    def _named_base(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return yaml_config.load(SearchConfig, shipped_config(value, "search"), "search")

    @model_validator(mode="after")
    def _axes_have_values(self) -> AblationConfig:
        for key, values in self.axes.items():
            if not values:
                raise ValueError(f"axes.{key}: no values")
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ValueError(f"axes.{key}: {twice!r} stands twice")
            if key in _NO_AXES:
                raise ValueError(f"axes.{key}: {_NO_AXES[key]}")
        return self

    @model_validator(mode="after")
    def _methods_fit(self) -> AblationConfig:
        for name, variant in self.methods.items():
            both = sorted(self.axes.keys() & variant.set.keys())
            if both:
                raise ValueError(f"methods.{name}.set: {both[0]} is an axis")
            if variant.warm_start and LENGTH not in self.axes:
                raise ValueError(f"methods.{name}.warm_start: there is no axis {LENGTH} to start along")
            if self.validation is None and not variant.learn:
                raise ValueError(f"methods.{name}: nothing is learned, so nothing is chosen; give `validation`")
            if variant.phrases and not variant.learn:
                raise ValueError(f"methods.{name}: either `phrases` are put on trial, or nothing is learned")
        for name in self.controls:
            if name not in self.methods:
                raise ValueError(f"controls: no method {name!r}{yaml_config.did_you_mean(name, list(self.methods))}")
        return self
