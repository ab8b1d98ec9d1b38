"""The defenses, one section per kind."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from safethink.config.section import Section


class DefenseSection(Section):
    """What every defense's configuration says of it."""

    token_level: ClassVar[bool] = False
    """Whether it asks for token-level effects, which only some engines offer."""


class NoneConfig(DefenseSection):
    """No defense: the reasoner alone."""

    kind: Literal["none"] = "none"


class AlwaysConfig(DefenseSection):
    """The prefix at the start of the thinking, whatever happens: zero-shot SAFEPATH (arXiv 2505.14667)."""

    kind: Literal["always"] = "always"


class SteeringConfig(DefenseSection):
    """What the defenses that intervene share."""

    threshold: float = Field(default=0.0, ge=-1, le=1)
    """A step violates when its score is below this."""


class GuardRefuseConfig(SteeringConfig):
    """Refuse as soon as the monitor fires."""

    kind: Literal["guard_refuse"] = "guard_refuse"


class SatisficingConfig(SteeringConfig):
    """SafeThink's loop: its limits and what follows when they are reached."""

    max_steered_steps: int = Field(default=3, ge=0)
    """Only violations at a step index below this are steered, as in the paper."""
    max_interventions: int | None = Field(default=None, ge=0)
    """The most interventions per trace; None for no limit."""
    max_resamples: int = Field(default=5, ge=1)
    """The most resamples per intervention."""
    fallback: Literal["keep_last", "best", "refuse"] = "keep_last"
    """What to do when no resample passes; `keep_last` is the paper's."""


class ResampleOnlyConfig(SatisficingConfig):
    """SafeThink with nothing injected: roll back and resample."""

    kind: Literal["resample_only"] = "resample_only"


class SafeThinkConfig(SatisficingConfig):
    """SafeThink (arXiv 2602.11096): on a violation drop the step, inject the prefix, resample."""

    kind: Literal["safethink"] = "safethink"
    keep_prefix: bool = False
    """Whether the prefix stays in the trace before the accepted step; the paper's pseudo-code drops it."""


DefenseConfig = Annotated[
    NoneConfig | AlwaysConfig | GuardRefuseConfig | ResampleOnlyConfig | SafeThinkConfig, Field(discriminator="kind")
]
