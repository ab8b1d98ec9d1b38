"""A guarded reasoner as a whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from safethink.config.defenses import DefenseConfig, SafeThinkConfig
from safethink.config.monitors import GuardMonitorConfig, MonitorConfig
from safethink.config.reasoner import LimitsConfig, ReasonerConfig, SamplingConfig, ThoughtConfig
from safethink.config.section import Section


class WorldConfig(Section):
    """The testbed's dynamics and prompts."""

    kind: Literal["planted", "hackable", "costly"] = "planted"
    """Dynamics; the shipped reasoners have `planted`, the others' are trained by `safethink-optimize testbed`."""
    seed: int = 0
    """Fixes the dynamics; must match the card of the weights."""
    prompts_seed: int = 0
    """Draws the prompts; a fresh one gives wrappers, hazards and tasks that nobody has tuned to."""


class RunConfig(Section):
    """A guarded reasoner: what `safethink generate` and `safethink inspect` take."""

    reasoner: ReasonerConfig
    thought: ThoughtConfig = ThoughtConfig()
    monitor: MonitorConfig = GuardMonitorConfig()
    defense: DefenseConfig = SafeThinkConfig()
    prefix: str = "wait-think-safely"
    """Name of a built-in prefix, folder of an artifact, or OWNER/NAME@COMMIT on the hub."""
    sampling: SamplingConfig = SamplingConfig()
    limits: LimitsConfig = LimitsConfig()
    batch_size: int = Field(default=64, ge=1)
    """The most rows decoded at once."""
    seed: int = 0
    """Seeds every row, together with its prompt and sample."""
