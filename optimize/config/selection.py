"""Section of the choice among what a search found."""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from safethink.config import JudgeConfig, MonitorConfig, Section

ChosenBy: TypeAlias = Literal["judge", "monitor"]
"""Labeller of continuations as safe or unsafe that decides the selection."""


class SelectionConfig(Section):
    """Selection of the prefix among those the search found: by recovery on validation, never by training loss."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"outcome_judge", "measured"})

    finalists: int = Field(default=12, ge=1)
    """Number of candidates put on trial that are the best by loss."""
    spread: int = Field(default=6, ge=0)
    """Number of others put on trial, evenly spread over all candidates by loss: they tell what the loss is worth as a
    guide."""
    measured: int = Field(default=8, ge=0)
    """Candidates from all over a round's archive that are injected at its own contexts, to log how well the loss ranks
    what then recovers; 0 measures none."""
    contexts: int = Field(default=96, ge=1)
    """Validation contexts."""
    samples: int = Field(default=2, ge=1)
    """Seeds per context."""
    forced_prompts: int = Field(default=64, ge=0)
    """Harmless and borderline prompts into which each finalist is forced."""
    max_forced_loss: float = Field(default=0.05, ge=0, le=1)
    """The floor: how much forced accuracy may fall, and forced over-refusal rise, against nothing injected."""
    by: ChosenBy = "judge"
    """`monitor` chooses by what the monitor passes alone: an ablation that shows what a separate judge is for."""
    portfolio: int = Field(default=1, ge=1)
    """Prefixes in the artifact, one per try; each next one recovers most of what those before it leave."""
    judge: MonitorConfig | None = None
    """A second guard that chooses where the testbed's judge cannot; None takes the monitor itself."""
    outcome_judge: JudgeConfig | None = None
    """A judge of whole outputs, as `safethink evaluate` has them, that chooses in the place of a guard: `refusal`,
    `{kind: guard, monitor: ...}` and so on. Where it has no opinion on traces, the monitor says which have drifted."""

    @model_validator(mode="after")
    def _one_judge(self) -> SelectionConfig:
        if self.judge is not None and self.outcome_judge is not None:
            raise ValueError("give either `judge`, a second guard, or `outcome_judge`")
        return self

    @model_validator(mode="after")
    def _a_seed_for_every_try(self) -> SelectionConfig:
        if self.portfolio > self.samples:
            raise ValueError(
                f"portfolio: {self.portfolio} tries need as many seeds per state; samples is {self.samples}"
            )
        return self
