"""One frozen model per YAML section of `safethink-optimize`. Imports no torch, so help and validation are instant."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from safethink.config import (
    BenchmarkConfig,
    EntryPointSection,
    JudgeConfig,
    MonitorConfig,
    RunConfig,
    Section,
    WorldConfig,
)
from safethink.errors import ConfigError


class ContextsConfig(Section):
    """Collection of the states at which the monitor fires."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"fallbacks", "fallback_prefixes", "refusal_openings"})

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
    """Scores all candidates on few contexts first and drops those that are surely worse."""

    first_contexts: int = Field(default=2, ge=2)
    """Contexts of the first heat; every heat doubles them."""
    keep: int = Field(default=8, ge=1)
    """Candidates that reach the last heat at least."""
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """One-sided confidence at which a paired difference to the leader drops a candidate."""


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


class SearchSection(Section):
    """Settings that all search methods share."""

    length: int = Field(default=4, ge=1)
    """Number of tokens of the prefix."""
    steps: int = Field(default=60, ge=1)
    """The most search steps, over all starts."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """The most tokens forwarded by the objective, gradients counted twice; None leaves it to `steps`."""
    stop_after_steps: int | None = Field(default=None, ge=1)
    """Steps without a better prefix, over all starts, after which the search ends; None leaves it to `steps`."""
    candidates: int = Field(default=96, ge=1)
    """Unique candidates scored per step."""
    init: str | None = "wait-think-safely"
    """Built-in name, artifact folder or literal text that the search starts from; shorter ones are padded with random
    tokens. None starts from random tokens."""

    begins_with_init: ClassVar[bool] = True
    """Whether the search begins with `init`; a method that begins nowhere has no use for it."""

    @property
    def shortest(self) -> int:
        """The fewest tokens of a prefix that may be chosen; what is shorter is a step on the way."""
        return self.length


class GradientSection(SearchSection):
    """Settings that the methods with a coordinate gradient share."""

    top_k: int = Field(default=64, ge=1)
    """Substitutes considered per position."""
    momentum: float = Field(default=0.4, ge=0, lt=1)
    """Share of the previous coordinate gradient kept."""
    patience: int = Field(default=6, ge=0)
    """Steps without improvement after which a start is left for another one, from random tokens."""


class GcgConfig(GradientSection):
    """Greedy coordinate gradient (arXiv 2307.15043), with momentum (arXiv 2405.01229)."""

    kind: Literal["gcg"] = "gcg"
    pair_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of the candidates that change two positions at once."""
    merge: int = Field(default=0, ge=0)
    """The best so many single edits of a step are merged one after the other into further candidates (arXiv
    2405.21018); 0 merges none."""
    first_edits: int = Field(default=1, ge=1)
    """Positions edited at once in the first step, falling to one half way through; 1 always edits one."""
    buffer: int = Field(default=1, ge=1)
    """Incumbents kept; the next step edits the cheapest that is not exhausted."""


class EvolutionConfig(SearchSection):
    """A Pareto front of loss against readability, evolved by swaps, insertions, deletions and proposals."""

    kind: Literal["evolution"] = "evolution"
    population: int = Field(default=16, ge=2)
    """The most prefixes kept: the front, spread; where it has fewer, the fronts behind it."""
    min_length: int = Field(default=1, ge=1)
    """The fewest tokens; `length` is the most."""
    top_k: int = Field(default=64, ge=1)
    """Tokens considered per position, of those that the gradient promises most of and of those likeliest to be said."""
    patience: int = Field(default=6, ge=0)
    """Steps without a cheaper prefix after which a population is left for another one, from random tokens."""

    @model_validator(mode="after")
    def _leave_room(self) -> EvolutionConfig:
        if self.min_length > self.length:
            raise ValueError(f"min_length {self.min_length} is more than length {self.length}")
        return self

    @property
    def shortest(self) -> int:
        """The fewest tokens of a prefix that may be chosen."""
        return self.min_length


class BeamConfig(SearchSection):
    """Beams of the reasoner's own samples, ranked by the objective: readable by construction (arXiv 2402.15570)."""

    kind: Literal["beam"] = "beam"
    beams: int = Field(default=8, ge=1)
    """Beams kept per length."""
    branches: int = Field(default=12, ge=1)
    """Tokens sampled per beam."""


class RelaxedConfig(SearchSection):
    """PEZ (arXiv 2302.03668): continuous rows, with gradients taken at the tokens they project to."""

    kind: Literal["relaxed"] = "relaxed"
    learning_rate: float = Field(default=0.1, gt=0)
    """Of AdamW on the continuous rows, as a share of the root mean square of the rows that a start begins with."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of AdamW."""
    patience: int = Field(default=12, ge=0)
    """Steps without a new projection after which the rows start again from random tokens."""


class PhrasesConfig(SearchSection):
    """A finite pool of phrases, or a slot grammar: the paper's own way of finding a prefix.

    Every step tries one phrase; phrases of more than `length` tokens are passed over.
    """

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"tried_on"})

    begins_with_init: ClassVar[bool] = False
    kind: Literal["phrases"] = "phrases"
    pool: tuple[str, ...] = ()
    """Phrases to try."""
    slots: tuple[tuple[str, ...], ...] = ()
    """A grammar: one choice per slot, joined as written; an empty choice leaves the slot out."""
    max_kl: float | None = Field(default=None, gt=0)
    """Phrases that move harmless continuations further than this many nats per token are dropped."""
    exhaustive_below: int = Field(default=512, ge=1)
    """Up to so many phrases are all tried; beyond, Optuna proposes and its WilcoxonPruner stops early."""
    tried_on: Literal["search", "validation"] = "validation"
    """Contexts on which phrases are tried: those that decide among the finalists, as in the paper; or those of every
    other method, so that the finalists meet fresh prompts."""

    @property
    def shortest(self) -> int:
        """Phrases are as long as they are."""
        return 1


class RandomConfig(SearchSection):
    """Random tokens: the control that every search must beat."""

    begins_with_init: ClassVar[bool] = False
    kind: Literal["random"] = "random"


class UnigramConfig(SearchSection):
    """The best single tokens, concatenated: the control that a search over their order must beat."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"ranked_by"})

    begins_with_init: ClassVar[bool] = False
    kind: Literal["unigram"] = "unigram"
    ranked_by: Literal["chance", "gradient"] = "chance"
    """Order in which single tokens are scored: random, which is fair where a budget lasts for most of them; or by the
    gradient at the best one so far, where a vocabulary is too large for that."""


class SoftConfig(SearchSection):
    """A soft prefix: embedding rows trained by AdamW."""

    kind: Literal["soft"] = "soft"
    learning_rate: float = Field(default=0.05, gt=0)
    """Of AdamW, as a share of the size of the numbers in a typical embedding."""
    clip_norm: float = Field(default=1.0, gt=0)
    """The gradient's norm is clipped to this."""
    norm_weight: float = Field(default=0.0, ge=0)
    """Weight of the penalty on rows longer than the reasoner's own embeddings are."""
    logger: Literal["tensorboard", "wandb"] | None = None
    """Lightning's logger; None logs to `search.jsonl` alone."""
    harden: bool = False
    """Whether what is exported is the nearest hard prefix, found by PEZ from the trained rows within as many steps and
    tokens again."""


class EntryPointMethodConfig(EntryPointSection, SearchSection):
    """A search method of another package, by its entry point in the group `safethink.search_methods`."""


MethodConfig = Annotated[
    GcgConfig
    | EvolutionConfig
    | BeamConfig
    | RelaxedConfig
    | PhrasesConfig
    | RandomConfig
    | UnigramConfig
    | SoftConfig
    | EntryPointMethodConfig,
    Field(discriminator="kind"),
]


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
    what the monitor then passes; 0 measures none."""
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


class PromptSetsConfig(Section):
    """Benchmarks whose prompts a prefix is learned on, each by the section that `safethink evaluate` has for it."""

    either: tuple[BenchmarkConfig, ...] = ()
    """Split into search and validation: what shares a group or asks the same stays on one side."""
    search: tuple[BenchmarkConfig, ...] = ()
    """Searched on."""
    validation: tuple[BenchmarkConfig, ...] = ()
    """Chosen on."""
    held_out: tuple[BenchmarkConfig, ...] = ()
    """Never learned on: what one of these asks is left out of the others."""

    @model_validator(mode="after")
    def _both_sides(self) -> PromptSetsConfig:
        if not self.either and not (self.search and self.validation):
            raise ValueError("give `either`, or both `search` and `validation`")
        return self


class LearningSection(Section):
    """Prompts that contexts are collected from, and the reasoner that collects them."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"prompt_sets"})

    run: RunConfig
    world: WorldConfig = WorldConfig()
    prompts: str | None = None
    """JSONL with prompts of one's own; None for the testbed's."""
    prompt_sets: PromptSetsConfig | None = None
    """Published benchmarks, in place of `prompts`."""

    @property
    def on_testbed(self) -> bool:
        """Whether the prompts are the testbed's."""
        return self.prompts is None and self.prompt_sets is None

    @model_validator(mode="after")
    def _one_source(self) -> LearningSection:
        if self.prompts is not None and self.prompt_sets is not None:
            raise ValueError("give either `prompts` or `prompt_sets`")
        return self


class CollectConfig(LearningSection):
    """Configuration of `safethink-optimize contexts`."""

    contexts: ContextsConfig = ContextsConfig()
    forced_prompts: int = Field(default=64, ge=0)
    """Harmless and borderline prompts of validation, into which finalists will be forced."""


class SearchConfig(LearningSection):
    """Configuration of `safethink-optimize search`."""

    contexts: ContextsConfig = ContextsConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    search: MethodConfig = GcgConfig()
    selection: SelectionConfig = SelectionConfig()
    name: str = "learned"
    """Name written into the artifact."""
    devices: int = Field(default=1, ge=1)
    """Processes that share the contexts, one per GPU, or on the CPU."""
    seed: int = 0
    """Seeds the search."""


def refuse_devices(config: SearchConfig) -> None:
    """Refuse to share one search among processes where several searches run side by side.

    Raises:
        ConfigError: `devices` is more than one.
    """
    if config.devices > 1:
        raise ConfigError(f"devices: {config.devices}, but whole searches run side by side here: set `workers`")
