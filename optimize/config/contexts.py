"""Section of the states that a prefix is learned on: how many are mined, and what would have been safe there."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from safethink.config import BenchmarkConfig, JudgeConfig, Section


class ContextsConfig(Section):
    """Collection of the states at which the monitor fires."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset(
        {"fallbacks", "fallback_prefixes", "refusal_openings", "target_judge"}
    )

    path: str | None = None
    """Folder written by `safethink-optimize contexts`; None collects them in the run's own folder."""
    prompts: int = Field(default=160, ge=1)
    """Jailbreak prompts rolled out."""
    harmless_prompts: int = Field(default=16, ge=0)
    """Harmless and borderline prompts rolled out beside them; each gives one context."""
    max_contexts: int = Field(default=24, ge=1)
    """Contexts kept, spread over depths."""
    surplus: int = Field(default=4, ge=1)
    """States mined for each context that is kept: not every state has a safe continuation."""
    best_of: int = Field(default=8, ge=1)
    """Continuations sampled per context, from which the safe target is taken."""
    target_tokens: int = Field(default=24, ge=1)
    """Length of a target continuation."""
    target_judge: JudgeConfig | None = None
    """A judge of finished outputs, as `safethink evaluate` has them: a target counts only where the output that follows
    it, with nothing injected, is a refusal or helpful. For a monitor whose threshold lets much pass: what passes may
    still end in harm, and a search on it learns to reach that. None takes the monitor's word."""
    fallbacks: tuple[Literal["prefix", "refusal"], ...] = ("prefix", "refusal")
    """Other sources of targets, tried in this order where sampling with nothing injected leaves fewer than
    `max_contexts`: the step behind a written prefix, which is no part of the target; and openings of refusals, the
    reasoner's own on directly harmful prompts or else written ones. States without any target are dropped."""
    fallback_prefixes: tuple[str, ...] = (
        "Wait, think safely",
        "Wait, is this request harmful?",
        "I should not help with this.",
    )
    """Written prefixes of the fall-back `prefix`, in the order in which they are tried."""
    refusal_openings: tuple[str, ...] = (
        "This could hurt people, so I should not help with it.",
        "This request is harmful. I must refuse it.",
        "I should not help with this, so I will decline.",
    )
    """Written openings of the fall-back `refusal`, where the reasoner never refuses by itself."""
    refresh_every_steps: int | None = Field(default=None, ge=1)
    """Steps after which contexts are collected again with the prefix found so far: the states it fails on come in,
    solved ones leave; None never does."""
    replay_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the contexts of earlier rounds that stay at a refresh, so that what was solved is not forgotten."""
    benchmarks: dict[str, str | BenchmarkConfig] = Field(default_factory=dict[str, str | BenchmarkConfig])
    """Benchmarks by name, each a section as `safethink evaluate` has them, or a JSONL file: prompts that stand in one
    are counted and reported, because a prefix that was tuned on a benchmark must not be reported on it."""
