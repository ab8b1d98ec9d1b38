"""One frozen model per YAML section. Imports no torch, so help and validation are instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """What every section shares: immutable, no unknown keys, help from the docstrings under the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ReasonerConfig(Section):
    """The model being guarded."""

    path: str
    """Folder or hub id; `testbed` and `testbed:null` name the shipped reasoners."""
    revision: str | None = None
    """Commit of the hub repository."""
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    """Precision of the weights; `auto` keeps the checkpoint's own (float32 on a CPU)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU where there is one."""
    attn_implementation: str | None = None
    """Passed to transformers; None lets it choose."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""


class ThoughtConfig(Section):
    """Where thinking opens and closes, where a step ends."""

    open_tag: str = "<think>"
    """What opens the thinking."""
    close_tag: str = "</think>"
    """What closes it."""
    step_delimiter: str = "\n\n"
    """What ends a step; found on decoded text."""
    prefix_separator: str = "\n"
    """Injected right behind a prefix, so that it stands on a line of its own and is not the opening of a step that the
    reasoner would complete; empty for nothing."""


class LimitsConfig(Section):
    """How long things may get."""

    max_step_tokens: int = Field(default=256, ge=1)
    """A step is cut after this many tokens."""
    max_trace_tokens: int = Field(default=4096, ge=1)
    """A trace that has not closed by then is invalid."""
    max_answer_tokens: int = Field(default=1024, ge=1)
    """An answer is cut after this many tokens."""


class SamplingConfig(Section):
    """How the reasoner's next token is chosen."""

    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass; 1 keeps everything."""
    top_k: int = Field(default=0, ge=0)
    """Number of most likely tokens kept; 0 keeps everything."""


class GuardMonitorConfig(Section):
    """A generative guard: score = 2 P(safe) - 1 from its verdicts' log-probabilities."""

    kind: Literal["guard"] = "guard"
    path: str = "testbed"
    """Folder or hub id; `testbed` names the shipped guard."""
    revision: str | None = None
    """Commit of the hub repository."""
    safe: str = "safe"
    """The verdict that means safe."""
    unsafe: str = "unsafe"
    """The verdict that means unsafe."""
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    """Precision of the weights."""
    device: str = "auto"
    """`cpu`, `cuda`, ...; `auto` takes a GPU where there is one."""


class OracleMonitorConfig(Section):
    """The testbed's oracle as a monitor: exact, +1 or -1, or as wrong as asked for. Only for prompts of the testbed."""

    kind: Literal["oracle"] = "oracle"
    miss_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of drifted traces that it passes; drawn anew at every step."""
    false_alarm_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the others that it fires at."""
    seed: int = 0
    """Draws which ones."""

    @property
    def name(self) -> str:
        """What artifacts and reports call it: two that err differently are two monitors."""
        if not self.miss_rate and not self.false_alarm_rate:
            return self.kind
        return f"{self.kind}, miss rate {self.miss_rate}, false alarm rate {self.false_alarm_rate}, seed {self.seed}"


class ConstantMonitorConfig(Section):
    """Always the same score; 1.0 never fires. For comparisons and tests."""

    kind: Literal["constant"] = "constant"
    value: float = Field(default=1.0, ge=-1, le=1)
    """The score."""


MonitorConfig = Annotated[GuardMonitorConfig | OracleMonitorConfig | ConstantMonitorConfig, Field(discriminator="kind")]


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


class WorldConfig(Section):
    """The testbed's dynamics and prompts."""

    kind: Literal["planted", "hackable", "costly"] = "planted"
    """Which dynamics; the shipped reasoners have `planted`, the others' are trained by `safethink-optimize testbed`."""
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


class TestbedBenchmarkConfig(Section):
    """One kind of testbed prompt."""

    kind: Literal["testbed"] = "testbed"
    prompts: Literal["jailbreak", "harmful", "harmless", "borderline"]
    """Which prompts."""
    split: Literal["search", "validation", "test"] = "test"
    """Which wrappers and hazards."""
    n: int = Field(default=300, ge=1)
    """How many prompts."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return self.prompts


class JsonlBenchmarkConfig(Section):
    """Prompts of one's own: JSONL with `prompt` or `messages`, optional `split`, `group`, `label`."""

    kind: Literal["jsonl"] = "jsonl"
    path: str
    """The file."""
    prompts: Literal["jailbreak", "harmful", "harmless", "borderline"]
    """What the prompts are, where a line has no `label`."""
    split: str | None = None
    """Keep only lines of this split."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return Path(self.path).stem


BenchmarkConfig = Annotated[TestbedBenchmarkConfig | JsonlBenchmarkConfig, Field(discriminator="kind")]


class RowConfig(Section):
    """One line of the results table: a defense and what it injects."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The row's name in the table."""
    defense: DefenseConfig
    prefix: str | None = None
    """Built-in name, artifact folder, OWNER/NAME@COMMIT on the hub or literal `text:...`; `random` draws as many random
    tokens as the prefix on trial has, `random:K` draws K; None takes the prefix on trial."""


class EvalConfig(Section):
    """What `safethink evaluate` takes: one guarded reasoner, several defenses, several benchmarks."""

    run: RunConfig
    """The guarded reasoner. Its defense and prefix play no part: every row brings its own."""
    prefix: str = "wait-think-safely"
    """The prefix on trial: built-in name, artifact folder or OWNER/NAME@COMMIT on the hub; rows without a prefix of
    their own use it."""
    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)
    rows: tuple[RowConfig, ...] = Field(min_length=1)
    world: WorldConfig = WorldConfig()
    samples: int = Field(default=1, ge=0)
    """Seeds per prompt and row; 0 leaves the guarded runs out."""
    recovery_samples: int = Field(default=2, ge=0)
    """Seeds per context in the recovery rate; 0 leaves it out."""
    forced_samples: int = Field(default=1, ge=0)
    """Seeds per prompt in the forced injections; 0 leaves them out."""
    depth_curve: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    """Values of max_steered_steps at which the ASR of the prefix on trial is measured; empty for none."""
    depth_prompts: int = Field(default=150, ge=1)
    """The most attack prompts behind each point of that curve."""
    judge: Literal["testbed", "refusal"] = "testbed"
    """`testbed`: the exact oracle, for the testbed's prompts alone; `refusal`: published refusal phrases, a weak
    baseline."""

    @model_validator(mode="after")
    def _unique_names(self) -> EvalConfig:
        for what, names in (("row", [row.name for row in self.rows]), ("benchmark", [b.name for b in self.benchmarks])):
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"two {what}s are called {twice!r}")
        return self

    @model_validator(mode="after")
    def _judge_knows_the_prompts(self) -> EvalConfig:
        foreign = next((each.name for each in self.benchmarks if each.kind != "testbed"), None)
        if self.judge == "testbed" and foreign is not None:
            raise ValueError(
                f"judge: 'testbed' knows the testbed's prompts alone, not those of {foreign!r}; use 'refusal'"
            )
        return self
