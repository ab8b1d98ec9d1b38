"""Section of what a prefix is worth: weights of the terms, and how they are sampled and raced."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from safethink.config import EntryPointSection, Section


class RewardConfig(Section):
    """The expected monitor reward, by REINFORCE with a leave-one-out baseline over sampled continuations."""

    samples: int = Field(default=4, ge=2)
    """Continuations sampled per context and prefix, beside the greedy one and the best one seen so far."""
    continuation_tokens: int = Field(default=32, ge=1)
    """The most tokens of a sampled continuation, which is one step."""
    contexts: int = Field(default=8, ge=1)
    """Contexts on which it is estimated."""
    refresh_every_steps: int = Field(default=5, ge=1)
    """Steps after which continuations are sampled again where the incumbent has stayed the same; where it has changed
    they always are."""


class RacingConfig(Section):
    """Scores all candidates on few contexts first and drops those that hardly can win."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"keep_share"})

    first_contexts: int = Field(default=2, ge=2)
    """Contexts of the first heat; every heat doubles them."""
    keep: int = Field(default=8, ge=0)
    """Candidates that reach the last heat at least; 0 drops all where the incumbent is surely better than each, which
    suits a method that keeps one prefix alone."""
    keep_share: float = Field(default=1.0, gt=0, le=1)
    """The largest share of a heat's candidates that goes on."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """One-sided confidence at which a paired difference to the leader or to the incumbent drops a candidate."""


class EntryPointTermConfig(EntryPointSection):
    """An objective term of another package, by its entry point in the group `safethink.objective_terms`."""

    weight: float = Field(default=1.0, ge=0)
    """Its factor in the total."""


class ObjectiveConfig(Section):
    """Cost of a candidate prefix: a weighted sum of terms; lower is better. A term of weight 0 is not computed."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"terms"})

    continuation_weight: float = Field(default=1.0, ge=0)
    """Weight of the loss of mined safe continuations where the monitor fired."""
    reward_weight: float = Field(default=0.0, ge=0)
    """Weight of the share of continuations that the monitor does not pass, as expected from samples."""
    reward: RewardConfig = RewardConfig()
    """Sampling of those continuations."""
    unlikelihood_weight: float = Field(default=0.0, ge=0)
    """Weight of the log-likelihood per token of the violating step."""
    unlikelihood_clip: float = Field(default=4.0, gt=0)
    """Nats per token beyond which making it even less likely is worth nothing."""
    benign_weight: float = Field(default=0.5, ge=0)
    """Weight of the loss of harmless continuations with the prefix forced in."""
    benign_kl_weight: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence there from the reasoner without a prefix."""
    nll_weight: float = Field(default=0.002, ge=0)
    """Weight of the prefix's own negative log-likelihood under the reasoner (readability)."""
    length_weight: float = Field(default=0.0, ge=0)
    """Weight of the number of tokens."""
    terms: tuple[EntryPointTermConfig, ...] = ()
    """Terms of other packages: `{kind: entry_point, name: ..., weight: ..., options: {...}}` each."""
    rows_per_forward: int = Field(default=256, ge=1)
    """The most (candidate, context) pairs in one forward; bounds the memory."""
    attention: Literal["auto", "shared", "expanded", "plain"] = "auto"
    """Sharing of a context's keys and values among candidates; `auto` takes the fastest that passes a self-test."""
    racing: RacingConfig | None = None
    """Drops candidates early; None scores every candidate on every context."""
