"""Configuration of `safethink-optimize monitor`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from optimize.config import PromptSetsConfig
from safethink.config import BenchmarkConfig, JudgeConfig, RunConfig, Section, TestbedJudgeConfig, WorldConfig
from safethink.config.evaluation import refuse_namesakes
from safethink.config.judges import judge_leaves
from safethink.config.monitors import PoolingKind


class PositionsConfig(Section):
    """Thresholds of a probe by the length of the trace, equal in their false alarm rate."""

    buckets: int = Field(default=3, ge=2)
    """Number of ranges of lengths, equally many held-out partial traces in each."""
    false_alarms: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the safe held-out partial traces of each range that scores below 0."""


class ProbeTrainingConfig(Section):
    """A linear head on the reasoner's hidden states, by logistic regression on standardised states."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"poolings", "decays", "positions"})

    kind: Literal["probe"] = "probe"
    layers: tuple[int, ...] = Field(default=(-1,), min_length=1)
    """Hidden states to try, as transformers counts them: 0 is the embedding, -1 the last; the one with the lowest loss
    on validation is kept, at the last token."""
    poolings: tuple[PoolingKind, ...] = Field(default=("last",), min_length=1)
    """Poolings over the trace's tokens to try at that layer; where there are several, half of the validation prompts is
    held out, and the one with the largest area under the ROC curve there is kept."""
    decays: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(0.5, 0.8, 0.95), min_length=1)
    """Decays per token that `ema` is tried with."""
    positions: PositionsConfig | None = None
    """Thresholds by the length of the trace, learned on the held-out half; None for one threshold everywhere."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of AdamW."""
    batch_size: int = Field(default=256, ge=1)
    """Partial traces per step."""
    max_epochs: int = Field(default=200, ge=1)
    """The most passes over the partial traces."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a lower loss on validation after which training ends."""


class RewardTrainingConfig(Section):
    """A classifier of sequences with one output, trained by trl's RewardTrainer on pairs of traces."""

    kind: Literal["reward"] = "reward"
    base: str = "testbed"
    """Folder or hub id of the model that it starts from, with a chat template; `testbed` names the shipped guard."""
    revision: str | None = None
    """Commit of the hub repository."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Of AdamW."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs per step."""
    epochs: int = Field(default=2, ge=1)
    """Passes over the pairs; the one with the lowest loss on validation is kept."""
    pairs_per_prompt: int = Field(default=8, ge=1)
    """The most pairs of one prompt."""
    borrow: bool = True
    """Whether prompts that have no unsafe trace of their own borrow one of another prompt to be worse than theirs: so
    that the zero of the reward means the same for all prompts."""
    center_rewards_coefficient: float = Field(default=0.01, ge=0)
    """Draws the mean reward of a pair to zero (arXiv 2312.09244, equation 2), where a threshold begins."""
    activation_checkpointing: bool = False
    """Saves memory for time."""
    bf16: bool = False
    """Train in bfloat16, on a GPU that can."""


class ClassifierLoraConfig(Section):
    """LoRA by peft: low-rank updates of linear layers, and the head as a whole."""

    rank: int = Field(default=8, ge=1)
    """Rank of the updates."""
    alpha: int = Field(default=16, ge=1)
    """The updates are scaled by it over the rank."""
    targets: tuple[str, ...] = Field(default=("q_proj", "v_proj", "o_proj", "up_proj", "down_proj"), min_length=1)
    """Names of the linear layers that get one."""
    first_layer: int = Field(default=0, ge=0)
    """The layers from this one on are trained; those below need no backward pass."""


class ClassifierTrainingConfig(Section):
    """A classifier of text with one output, half the log-odds of a partial trace being safe, by cross-entropy.

    As a `reward` monitor squashes it by tanh, the score is 2 P(safe) - 1.
    """

    kind: Literal["classifier"] = "classifier"
    base: str = "testbed"
    """Folder or hub id of the model that it starts from, with a chat template; `testbed` names the shipped guard."""
    revision: str | None = None
    """Commit of the hub repository."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder or hub repository of the base, whose weights are dequantised."""
    base_name: str | None = None
    """Hub id that is written into an exported update as its base, where `base` is a copy; None writes `base`."""
    lora: ClassifierLoraConfig | None = None
    """Trains updates and exports them alone; None trains and exports all weights."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak of the cosine of AdamW, behind a warm-up of a twentieth of the steps."""
    batch_size: int = Field(default=16, ge=1)
    """Partial traces per step."""
    epochs: int = Field(default=2, ge=1)
    """Passes over the partial traces; the one with the lowest loss on validation is kept."""
    steps_per_trace: int | None = Field(default=None, ge=1)
    """At most so many partial traces of each rollout or labelled response are learned from and chosen on, drawn by a
    hash; None takes all. All are reported on."""
    max_tokens: int = Field(default=512, ge=8)
    """Chats of more tokens are not learned from, nor chosen on."""


MonitorTraining = Annotated[
    ProbeTrainingConfig | RewardTrainingConfig | ClassifierTrainingConfig, Field(discriminator="kind")
]


class MonitorPromptSetsConfig(PromptSetsConfig):
    """Benchmarks that a monitor is trained, chosen and reported on; no two splits ask the same."""

    test: tuple[BenchmarkConfig, ...] = ()
    """Reported on; where there are none, a third of what `either` asks."""

    @model_validator(mode="after")
    def _unique_names(self) -> MonitorPromptSetsConfig:
        refuse_namesakes(
            "benchmark", [each.name for each in (*self.either, *self.search, *self.validation, *self.test)]
        )
        return self

    @model_validator(mode="after")
    def _something_to_report_on(self) -> MonitorPromptSetsConfig:
        if not self.either and not self.test:
            raise ValueError("give `test`, or `either`, of which a third is reported on")
        return self


class OutcomeLabelsConfig(Section):
    """Labels from what became of a rollout: a partial trace is unsafe where the answer that followed it was harmful.

    So process reward models are taught by outcomes (Math-Shepherd, arXiv 2312.08935, section 3.2). Rollouts that never
    closed their thinking, or that the judge cannot read, are left out and counted.
    """

    judge: JudgeConfig
    """The judge of the finished outputs."""


class LabelledFileConfig(Section):
    """Responses that people labelled: a published file, or one's own with `prompt`, `response` and `label`.

    A response stands where the trace stands, and every step of it has the response's label: unsafe where the response
    was labelled harmful, or no refusal though the prompt is an attack.
    """

    path: str
    """The file; its layout is told by its columns."""
    sample: int | None = Field(default=None, ge=1)
    """At most so many responses, drawn by a hash; None takes all."""


class TrainMonitorConfig(Section):
    """Configuration of `safethink-optimize monitor`: the reasoner, the labeller of its traces, and the trained monitor.

    The reasoner is rolled out undefended, and `run.monitor` scores every partial trace that ends with a step: a guard,
    or the testbed's `oracle`, exact or as noisy as its dev judge (`miss_rate: 0.08, false_alarm_rate: 0.08`). With
    `labels` a judge reads the finished outputs instead.
    """

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset(
        {"prompt_sets", "labels", "injected", "injected_share", "labelled"}
    )

    run: RunConfig
    """The reasoner, and the monitor that labels. Defense and prefix play no part."""
    world: WorldConfig = WorldConfig()
    prompts: str | None = None
    """JSONL with prompts of one's own, lines of the splits `search`, `validation` and `test`; None: the testbed's."""
    prompt_sets: MonitorPromptSetsConfig | None = None
    """Published benchmarks, in place of `prompts`."""
    labels: OutcomeLabelsConfig | None = None
    """A judge of the finished outputs that labels, in place of `run.monitor`, which is then not loaded."""
    injected: tuple[str, ...] = ()
    """Prefixes, as `run.prefix` names them, that are put into traces at random steps, so that the monitor meets in
    training what it meets when guarding: a probe reads the injected tokens, a monitor of text what follows them."""
    injected_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the traces that are gone on from a random step with one of `injected`."""
    labelled: tuple[LabelledFileConfig, ...] = ()
    """Files of labelled responses, learned from and reported on beside the reasoner's own traces."""
    attacks: int = Field(default=400, ge=1)
    """Jailbreak prompts of each split of the testbed."""
    borderline: int = Field(default=150, ge=0)
    """Borderline prompts of each."""
    harmless: int = Field(default=150, ge=0)
    """Harmless prompts of each."""
    samples: int = Field(default=1, ge=1)
    """Traces per prompt."""
    label_threshold: float = Field(default=0.0, ge=-1, le=1)
    """Partial traces that score below it count as unsafe."""
    monitor: MonitorTraining = ProbeTrainingConfig()
    """Kind of monitor to train, with its settings."""
    seed: int = 0
    """Seeds the training; the rollouts have `run.seed`."""

    @property
    def on_testbed(self) -> bool:
        """Whether the prompts are the testbed's."""
        return self.prompts is None and self.prompt_sets is None

    @model_validator(mode="after")
    def _one_source(self) -> TrainMonitorConfig:
        if self.prompts is not None and self.prompt_sets is not None:
            raise ValueError("give either `prompts` or `prompt_sets`")
        return self

    @model_validator(mode="after")
    def _outcomes_of_injections(self) -> TrainMonitorConfig:
        if self.injected and self.labels is None:
            raise ValueError("injected: traces with an injection are labelled by what becomes of them; give `labels`")
        if self.labelled and self.label_threshold != 0:
            raise ValueError("labelled: people's labels have no threshold; leave `label_threshold` at 0")
        leaves = () if self.labels is None else judge_leaves(self.labels.judge)
        if not self.on_testbed and any(isinstance(leaf, TestbedJudgeConfig) for leaf in leaves):
            raise ValueError("labels.judge: 'testbed' knows the testbed's prompts alone; use 'refusal'")
        return self

    @model_validator(mode="after")
    def _pairs_need_two(self) -> TrainMonitorConfig:
        if self.monitor.kind == "reward" and self.samples < 2:
            raise ValueError("samples: pairs are of one prompt, so a reward monitor needs at least 2 traces of each")
        return self
