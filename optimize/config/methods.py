"""Sections of the search methods, told apart by `kind`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from safethink.config import EntryPointSection, ReasonerConfig, SamplingConfig, Section, ThoughtConfig


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

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"min_candidates", "escape", "target_share"})

    kind: Literal["gcg"] = "gcg"
    min_candidates: int | None = Field(default=None, ge=1)
    """The fewest candidates of a step, whose width then follows what steps find: half as many after one in which 3 or
    more beat the incumbent, twice as many after one in which none did, up to `candidates`; `patience` counts narrow
    steps too. None always scores `candidates`."""
    escape: bool = False
    """Whether a step of full width that finds nothing better goes on from its best candidate alone, as in GCG. Patience
    counts from the best prefix of the start, which stays in the archive. It seldom acts where candidates race with
    `keep: 0`: then nobody worse is known in all contexts."""
    pair_share: float = Field(default=0.25, ge=0, lt=1)
    """Share of the candidates that change two positions at once."""
    target_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the candidates that put a token of the targets somewhere: what was said is likely to be said again."""
    merge: int = Field(default=0, ge=0)
    """The best so many single edits of a step are merged one after the other into further candidates (arXiv
    2405.21018); 0 merges none."""
    first_edits: int = Field(default=1, ge=1)
    """Positions edited at once in the first step, falling to one half way through; 1 always edits one."""
    buffer: int = Field(default=1, ge=1)
    """Incumbents kept; the next step edits the cheapest that is not exhausted."""

    @model_validator(mode="after")
    def _widths_in_order(self) -> GcgConfig:
        if self.min_candidates is not None and self.min_candidates > self.candidates:
            raise ValueError(f"min_candidates {self.min_candidates} is more than candidates {self.candidates}")
        return self


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


class WriterConfig(ReasonerConfig):
    """A model that writes phrases in the place of the guarded reasoner."""

    thought: ThoughtConfig = ThoughtConfig()
    """Thinking format, as of a run; `family: plain` for a model that does not reason. Thinking is closed at once."""


class ReflectConfig(SearchSection):
    """Phrases in words, written by a model that reads failed traces and the best phrases so far (OPRO, ProTeGi).

    Phrases of more than `length` tokens are passed over.
    """

    kind: Literal["reflect"] = "reflect"
    writer: WriterConfig | None = None
    """Model that writes; None lets the guarded reasoner write."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.95)
    """Sampling of what it writes."""
    traces: int = Field(default=3, ge=1)
    """Failed traces that it reads for each list, drawn anew."""
    trace_tokens: int = Field(default=48, ge=1)
    """The most tokens of a trace that it reads: the last ones."""
    shown: int = Field(default=8, ge=0)
    """The most tried phrases that it reads with their costs: the best so far."""
    lists: int = Field(default=4, ge=1)
    """Lists of phrases written per step."""
    list_tokens: int = Field(default=64, ge=1)
    """The most tokens of a list."""

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
    | ReflectConfig
    | RandomConfig
    | UnigramConfig
    | SoftConfig
    | EntryPointMethodConfig,
    Field(discriminator="kind"),
]
