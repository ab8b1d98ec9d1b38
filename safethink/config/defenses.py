"""The defenses, one section per kind."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from safethink.config.section import EntryPointSection, Section


class NoneConfig(Section):
    """No defense: the reasoner alone."""

    kind: Literal["none"] = "none"


class AlwaysConfig(Section):
    """The prefix at the start of the thinking, whatever happens: zero-shot SAFEPATH (arXiv 2505.14667)."""

    kind: Literal["always"] = "always"


class SteeringConfig(Section):
    """Settings shared by the defenses that intervene."""

    threshold: float = Field(default=0.0, ge=-1, le=1)
    """A step violates when its score is below this."""
    monitor_answer: bool = False
    """Whether the answer too is generated step by step, scored behind the trace, and steered or refused. It is without
    this too where the reasoner thinks outside its tags: it closed its thinking with nothing in it, or opens it again in
    the answer. The fallback `refuse` suits it: a prefix in an answer leads back into thinking, and so reads a try that
    is kept."""


class GuardRefuseConfig(SteeringConfig):
    """Refuse as soon as the monitor fires."""

    kind: Literal["guard_refuse"] = "guard_refuse"


class SatisficingConfig(SteeringConfig):
    """SafeThink's loop: its limits and what follows when they are reached."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"retry_empty"})

    max_steered_steps: int = Field(default=3, ge=0)
    """Only violations at a step index below this are steered, as in the paper. In a monitored answer all are, unless
    this is 0."""
    max_interventions: int | None = Field(default=None, ge=0)
    """The most interventions per trace, and per monitored answer; None for no limit."""
    max_resamples: int = Field(default=5, ge=1)
    """The most resamples per intervention; as many again after a rollback."""
    retry_empty: bool = True
    """Whether a resample that says nothing is a failed try, whatever its score: one that is blank, closes the thinking
    or ends the answer at once, or says the prefix over again."""
    fallback: Literal["keep_last", "best", "refuse", "rollback"] = "keep_last"
    """Action when no resample passes; `keep_last` is the paper's. `rollback` drops `rollback_steps` accepted steps
    as well and tries again there; when none passes there either, or nothing was accepted before, it keeps the last."""
    rollback_steps: int = Field(default=1, ge=1)
    """Number of accepted steps that `rollback` drops with the violating one, or as many as there are. A step
    that was rolled back from, and those before it, are not rolled back from again."""


class ResampleOnlyConfig(SatisficingConfig):
    """SafeThink with nothing injected: roll back and resample."""

    kind: Literal["resample_only"] = "resample_only"


class SafeThinkConfig(SatisficingConfig):
    """SafeThink (arXiv 2602.11096): on a violation drop the step, inject the prefix, resample."""

    kind: Literal["safethink"] = "safethink"
    keep_prefix: bool = True
    """Whether the prefix stays in the trace before the accepted step. The paper's pseudo-code leaves it open: its
    accepted trace names the resample alone. Dropped, its effect was gone with it on real weights. It never stays in an
    answer."""
    monitor_sees_prefix: bool = False
    """Whether the monitor reads injected tokens too, which lets a prefix flatter it; an ablation."""


class EntryPointDefenseConfig(EntryPointSection):
    """A defense of another package, by its entry point in the group `safethink.defenses`."""


DefenseConfig = Annotated[
    NoneConfig | AlwaysConfig | GuardRefuseConfig | ResampleOnlyConfig | SafeThinkConfig | EntryPointDefenseConfig,
    Field(discriminator="kind"),
]
