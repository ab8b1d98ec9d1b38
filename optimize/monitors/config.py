"""Configuration of `safethink-optimize monitor`. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from safethink.config import RunConfig, Section, WorldConfig
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


MonitorTraining = Annotated[ProbeTrainingConfig | RewardTrainingConfig, Field(discriminator="kind")]


class TrainMonitorConfig(Section):
    """Configuration of `safethink-optimize monitor`: the reasoner, the labeller of its traces, and the trained monitor.

    The reasoner is rolled out undefended, and `run.monitor` scores every partial trace that ends with a step: a guard,
    or the testbed's `oracle`, exact or as noisy as its dev judge (`miss_rate: 0.08, false_alarm_rate: 0.08`).
    """

    run: RunConfig
    """The reasoner, and the monitor that labels. Defense and prefix play no part."""
    world: WorldConfig = WorldConfig()
    prompts: str | None = None
    """JSONL with prompts of one's own, lines of the splits `search`, `validation` and `test`; None: the testbed's."""
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

    @model_validator(mode="after")
    def _pairs_need_two(self) -> TrainMonitorConfig:
        if self.monitor.kind == "reward" and self.samples < 2:
            raise ValueError("samples: pairs are of one prompt, so a reward monitor needs at least 2 traces of each")
        return self
