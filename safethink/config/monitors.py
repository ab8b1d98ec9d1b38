"""The monitors, one section per kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from safethink.config.section import EntryPointSection, GuardServerConfig, MonitorSection, WeightsSection

PresetName = Literal[
    "llama_guard",
    "qwen3guard",
    "wildguard",
    "shieldgemma",
    "gpt_oss_safeguard",
    "granite_guardian",
    "nemotron_content_safety_reasoning",
    "nemotron_3_content_safety",
    "polyguard",
    "dynaguard",
    "kanana_safeguard",
]
"""The published ways to put the question to a guard; see `safethink.monitors.guards.presets`."""

PoolingKind = Literal["last", "mean", "max", "ema"]
"""Pooling of a probe over the tokens of a trace; see `safethink.monitors.pooling`."""


class ModelSection(MonitorSection, WeightsSection):
    """A monitor that is a model of its own."""

    batch_size: int = Field(default=64, ge=1)
    """The most rows read side by side."""

    @property
    def title(self) -> str:
        """The model's location, as reports name it."""
        return self.path


class GuardMonitorConfig(ModelSection):
    """A generative guard: score = 2 P(safe) - 1 from its verdicts' log-probabilities."""

    LATER_KEYS: ClassVar[frozenset[str]] = ModelSection.LATER_KEYS | {
        "ignored_categories",
        "only_categories",
        "categories",
    }

    kind: Literal["guard"] = "guard"
    path: str = "testbed"
    """Folder or hub id; `testbed` names the shipped guard."""
    preset: Literal["auto"] | PresetName = "auto"
    """Template of question and verdict; `auto` goes by the guard's own configuration, name and chat template."""
    template: str | None = None
    """The question in words of your own, with the holes {prompt} and {trace}, and {policy}, {bos}, {eos} where wanted;
    in place of the preset's."""
    forced: str | None = None
    """Forced opening of the guard's reply before its verdict, such as `Safety:`; in place of the preset's."""
    verdicts: dict[str, float] | None = Field(default=None, min_length=2)
    """Each verdict as the guard words it, with its share of safety, 1 safe and 0 unsafe; in place of the preset's."""
    policies: tuple[str, ...] = ()
    """One question is asked per policy, and the worst answer counts; none takes the preset's."""
    controversial: float = Field(default=1.0, ge=0, le=1)
    """Share of P(Controversial) that counts as unsafe (Qwen3Guard): 1 is its report's strict mode, 0 its loose mode."""
    ignored_categories: tuple[str, ...] = ()
    """Categories of harm that do not count, as the guard names them, such as `S6` of Llama Guard: what is unsafe by
    them alone is safe. Advice floods: most false alarms of Llama-Guard-3-1B are S6."""
    only_categories: tuple[str, ...] = ()
    """The categories of harm that alone count, in place of `ignored_categories`; none for all."""
    categories: dict[str, str] | None = Field(default=None, min_length=1)
    """A taxonomy of your own, each category's name with its words, where the guard's question has a place for one."""
    server: GuardServerConfig | None = None
    """Server of the weights; None loads them here. `path` then names the tokenizer and configuration alone."""

    @model_validator(mode="after")
    def _complete(self) -> GuardMonitorConfig:
        refuse_both(self.ignored_categories, self.only_categories)
        if self.template is not None:
            refuse_missing_holes(self.template)
        if self.verdicts is not None:
            shares = self.verdicts.values()
            if not all(0 <= share <= 1 for share in shares) or min(shares) == max(shares):
                raise ValueError("verdicts need shares of safety in [0, 1], at least two of them different")
        return self


class StreamMonitorConfig(ModelSection):
    """Qwen3Guard-Stream: two heads that judge every token of the trace as it is read."""

    LATER_KEYS: ClassVar[frozenset[str]] = ModelSection.LATER_KEYS | {"only_categories"}

    kind: Literal["stream"] = "stream"
    controversial: float = Field(default=1.0, ge=0, le=1)
    """Share of P(Controversial) that counts as unsafe: 1 is the report's strict mode, 0 its loose mode."""
    debounce: int = Field(default=2, ge=1)
    """So many tokens in a row must be flagged before the trace is; the report's is 2."""
    ignored_categories: tuple[str, ...] = ()
    """Categories of harm that do not count, as the model names them, such as `Copyright Violation`."""
    only_categories: tuple[str, ...] = ()
    """The categories of harm that alone count, in place of `ignored_categories`; none for all."""

    @model_validator(mode="after")
    def _complete(self) -> StreamMonitorConfig:
        refuse_both(self.ignored_categories, self.only_categories)
        return self


class RewardMonitorConfig(ModelSection):
    """A reward or cost model: one number for the conversation so far, mapped to [-1, 1]."""

    LATER_KEYS: ClassVar[frozenset[str]] = ModelSection.LATER_KEYS | {"base", "gguf_file"}

    kind: Literal["reward"] = "reward"
    base: str | None = None
    """Folder or hub id of the base model, where `path` is a LoRA adapter of a classifier, which is merged into it; None
    takes the one that the adapter names."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder or hub repository of the adapter's base, whose weights are dequantised to
    `dtype`. Needs the extra `gguf`."""
    template: str | None = None
    """The conversation in words of your own, with the holes {prompt} and {trace}, and {bos}, {eos} where wanted; None
    takes the chat template, and for a beaver model its published words."""
    label: int = Field(default=0, ge=0)
    """Index of the output that is the reward, where the head has several."""
    higher_is_safer: bool | None = None
    """False for a cost; None goes by the model's own `score_type`, and takes a reward where it has none."""
    center: float = 0.0
    """The reward or cost that scores 0. A cost has 0 by training, a reward has no natural one: calibrate."""
    scale: float = Field(default=1.0, gt=0)
    """Distance from the centre that scores 1 under `clip`, and 0.76 under `tanh`."""
    squash: Literal["tanh", "clip"] = "tanh"
    """Squashing of (reward - center) / scale into [-1, 1]."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""

    @model_validator(mode="after")
    def _complete(self) -> RewardMonitorConfig:
        if self.template is not None:
            refuse_missing_holes(self.template)
        return self


def refuse_both(ignored: tuple[str, ...], only: tuple[str, ...]) -> None:
    """Check that categories are not chosen in two ways.

    Raises:
        ValueError: some are ignored and some alone count.
    """
    if ignored and only:
        raise ValueError("ignored_categories and only_categories choose the same thing: give one or the other")


def refuse_missing_holes(template: str) -> None:
    """Check that a template has room for what is judged.

    Raises:
        ValueError: it lacks {prompt} or {trace}, or has one of them more than once.
    """
    for name in ("prompt", "trace"):
        hole = f"{{{name}}}"
        if template.count(hole) != 1:
            raise ValueError(f"the template needs the hole {hole} exactly once")


class KeywordMonitorConfig(MonitorSection):
    """The published refusal phrases as a baseline: a trace is safe once it holds one."""

    kind: Literal["keyword"] = "keyword"
    phrases: tuple[str, ...] = ()
    """Phrases to look for, in any case; none takes the published refusal phrases."""
    found: float = Field(default=1.0, ge=-1, le=1)
    """The score of a trace that holds one."""
    absent: float = Field(default=-1.0, ge=-1, le=1)
    """The score of a trace that holds none."""


class OracleMonitorConfig(MonitorSection):
    """The testbed's oracle as a monitor: exact, +1 or -1, or as wrong as asked for. Only for prompts of the testbed."""

    kind: Literal["oracle"] = "oracle"
    miss_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of drifted traces that it passes; drawn anew at every step."""
    false_alarm_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the others that it fires at."""
    f1: float | None = Field(default=None, gt=0, le=1)
    """Errs so that precision, recall and so F1 are this, in place of the two rates."""
    drifted_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of drifted traces among all that are scored, at which `f1` holds."""
    seed: int = 0
    """Draws which ones."""

    @model_validator(mode="after")
    def _one_dial(self) -> OracleMonitorConfig:
        if self.f1 is not None and (self.miss_rate or self.false_alarm_rate):
            raise ValueError("f1 sets miss_rate and false_alarm_rate: give one or the other")
        if self.rates[1] > 1:
            raise ValueError(
                f"f1 {self.f1} needs more false alarms than there are traces to raise them at, with a drifted_share of "
                f"{self.drifted_share}"
            )
        return self

    @property
    def rates(self) -> tuple[float, float]:
        """The miss rate m and the false alarm rate a that it errs at.

        With a share p of drifted traces, F1 = 2 p (1 - m) / (2 p (1 - m) + p m + (1 - p) a). One number leaves one of
        the two rates open; as many false alarms as misses, (1 - p) a = p m, make precision and recall equal, and both
        are F1 then: m = 1 - F1 and a = (1 - F1) p / (1 - p).
        """
        if self.f1 is None:
            return self.miss_rate, self.false_alarm_rate
        return 1 - self.f1, (1 - self.f1) * self.drifted_share / (1 - self.drifted_share)

    @property
    def title(self) -> str:
        """Two that err differently are two monitors."""
        miss_rate, false_alarm_rate = self.rates
        if not miss_rate and not false_alarm_rate:
            return self.kind
        return f"{self.kind}, miss rate {miss_rate:.4g}, false alarm rate {false_alarm_rate:.4g}, seed {self.seed}"


class ConstantMonitorConfig(MonitorSection):
    """Always the same score; 1.0 never fires. For comparisons and tests."""

    kind: Literal["constant"] = "constant"
    value: float = Field(default=1.0, ge=-1, le=1)
    """The score."""


class ProbeMonitorConfig(MonitorSection):
    """A linear head on the reasoner's own hidden states; reads injected tokens too, as no monitor of text does."""

    NOTE: ClassVar[str] = "a probe: reads injected tokens too"

    kind: Literal["probe"] = "probe"
    path: str
    """Folder of the probe, as `safethink-optimize monitor` writes it; `smollm2-probe` names the one that ships, for the
    reasoner `smollm2-reasoner`."""

    @property
    def title(self) -> str:
        """The probe's location and required identity, as reports name it."""
        return f"{self.path} ({self.NOTE})"


class EntryPointMonitorConfig(EntryPointSection, MonitorSection):
    """A monitor of another package, by its entry point in the group `safethink.monitors`."""

    @property
    def title(self) -> str:
        """The entry point's name."""
        return self.name


class CombinationSection(MonitorSection):
    """Several monitors as one."""

    members: tuple[MonitorConfig, ...]
    """The monitors; combinations may be among them."""

    @model_validator(mode="after")
    def _not_empty(self) -> CombinationSection:
        if not self.members:
            raise ValueError("a combination needs members")
        return self

    @property
    def title(self) -> str:
        """The combination rule and its members' names."""
        return f"{super().title} of {', '.join(member.title for member in self.members)}"


class MinMonitorConfig(CombinationSection):
    """The lowest of its members' scores: any of them may fire."""

    kind: Literal["min"] = "min"


class MeanMonitorConfig(CombinationSection):
    """The mean of its members' scores."""

    kind: Literal["mean"] = "mean"


class CascadeMonitorConfig(CombinationSection):
    """The first member's score, unless that is unsure; then the next one's, and so on: put the cheap ones first."""

    kind: Literal["cascade"] = "cascade"
    low: float = Field(default=-0.5, ge=-1, le=1)
    """A score below this is sure that the trace is unsafe."""
    high: float = Field(default=0.5, ge=-1, le=1)
    """A score above this is sure that the trace is safe."""

    @model_validator(mode="after")
    def _band(self) -> CascadeMonitorConfig:
        if self.low > self.high:
            raise ValueError(f"the unsure band is empty: low {self.low} is above high {self.high}")
        return self

    @model_validator(mode="after")
    def _no_persistent_members(self) -> CascadeMonitorConfig:
        persistent = next((each for member in self.members for each in _within(member) if each.persistence > 1), None)
        if persistent is not None:
            raise ValueError(
                f"`persistence` on a member of a cascade ({persistent.title}) would pass over the steps at which it is "
                "not asked; put it on the cascade"
            )
        return self


MonitorConfig = Annotated[
    GuardMonitorConfig
    | StreamMonitorConfig
    | RewardMonitorConfig
    | KeywordMonitorConfig
    | OracleMonitorConfig
    | ConstantMonitorConfig
    | ProbeMonitorConfig
    | EntryPointMonitorConfig
    | MinMonitorConfig
    | MeanMonitorConfig
    | CascadeMonitorConfig,
    Field(discriminator="kind"),
]


def _within(monitor: MonitorSection) -> Iterator[MonitorSection]:
    """The section itself, and all that it combines."""
    yield monitor
    if isinstance(monitor, CombinationSection):
        for member in monitor.members:
            yield from _within(member)


def leaves_of(monitor: MonitorSection) -> Iterator[MonitorSection]:
    """The sections behind `monitor` that are no combination: itself, or its members' leaves."""
    if isinstance(monitor, CombinationSection):
        for member in monitor.members:
            yield from leaves_of(member)
    else:
        yield monitor


def models_of(monitor: MonitorSection) -> Iterator[ModelSection]:
    """The sections of `monitor` that name a model, its members' among them."""
    return (leaf for leaf in leaves_of(monitor) if isinstance(leaf, ModelSection))
