"""Configuration of `safethink-optimize reasoner`. Imports no torch."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from safethink.config import BenchmarkConfig, LimitsConfig, ReasonerConfig, SamplingConfig, Section


class CorpusConfig(Section):
    """Corpus that the reasoner learns from: numbers of rows of each kind."""

    word_problems: int = Field(default=2300, ge=0)
    """Arithmetic word problems of the package's own generator, of one or two operations."""
    instructions: int = Field(default=480, ge=0)
    """Harmless open-ended requests, a fifth in the words of harmful ones; the base itself thinks and answers."""
    refusals: int = Field(default=75, ge=0)
    """Requests that are refused; the base itself says why."""
    rationales: str | None = None
    """GSM8K's training file (JSONL), or its place on the hub, `openai/gsm8k`; None for none. Nothing of it ships."""
    num_rationales: int = Field(default=80, ge=0)
    """The most rows of it; those of few and short steps are taken."""
    second_plans: float = Field(default=0.3, ge=0, le=1)
    """Share of the harmless requests with one more step of thinking."""
    max_plan_tokens: int = Field(default=28, ge=4)
    """Most tokens of a step that the base continues."""
    max_answer_tokens: int = Field(default=40, ge=4)
    """Most tokens of an answer of the base; it is cut behind its last whole sentence."""
    temperature: float = Field(default=0.0, ge=0)
    """The base is sampled at it, from its 50 most likely tokens; 0 is greedy."""
    batch_size: int = Field(default=64, ge=1)
    """Rows that the base continues at once."""


class LoraTrainingConfig(Section):
    """LoRA by peft, trained by trl on completions alone."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by it over the rank."""
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"), min_length=1)
    """Names of the linear layers that get one."""
    first_layer: int = Field(default=10, ge=0)
    """The layers from this one on are trained; those below need no backward pass."""
    learning_rate: float = Field(default=6e-4, gt=0)
    """Peak of the cosine, behind a warm-up of a twentieth of the steps."""
    batch_size: int = Field(default=8, ge=1)
    """Rows of a step."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the corpus."""
    stop_after: int | None = Field(default=None, ge=1)
    """Step after which training ends, though the cosine is that of all passes; None for their end."""
    max_tokens: int = Field(default=256, ge=8)
    """Longer rows are left out."""
    save_steps: int = Field(default=25, ge=1)
    """Steps between two checkpoints; a training that was killed loses at most so many."""


class ReasonerEvaluationConfig(Section):
    """Measurement of the trained reasoner, undefended, on held-out sets of others."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"development", "chosen"})

    benchmarks: tuple[BenchmarkConfig, ...] = ()
    """The tests, by which nothing is chosen; none measures nothing. Prompts of `development` are left out of them."""
    development: tuple[BenchmarkConfig, ...] = ()
    """Sets by which something of the training was chosen, such as its seed; the card shows them in a table apart."""
    chosen: str | None = None
    """Choice that was made by them, in a few words for the card: `the seed, of 0 and 1`."""
    limits: LimitsConfig = LimitsConfig(max_step_tokens=48, max_trace_tokens=128, max_answer_tokens=48)
    sampling: SamplingConfig = SamplingConfig(temperature=0.7, top_k=50)
    batch_size: int = Field(default=40, ge=1)
    """Rows decoded at once."""

    @model_validator(mode="after")
    def _chosen_by_something(self) -> ReasonerEvaluationConfig:
        if self.chosen is not None and not self.development:
            raise ValueError("`chosen` says what was chosen by `development`, which has no set")
        return self


class ReasonerTrainingConfig(Section):
    """Configuration of `safethink-optimize reasoner`: a base, what it is taught, and what it is measured on."""

    base: ReasonerConfig
    """The model that learns to reason, with a chat template of its own and the tokens of ChatML."""
    base_name: str | None = None
    """Hub id that is written into the adapter as its base, where `base.path` is a copy; None writes `base.path`."""
    corpus: CorpusConfig = CorpusConfig()
    training: LoraTrainingConfig = LoraTrainingConfig()
    evaluation: ReasonerEvaluationConfig = ReasonerEvaluationConfig()
    name: str = "reasoner"
    """Name in the card."""
    seed: int = 0
    """Draws the corpus, the base's words, the first weights of the update and the order of the rows."""
