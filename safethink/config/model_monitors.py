"""The monitors that are models of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from safethink.config.section import MonitorSection
from safethink.config.server import GuardServerConfig
from safethink.config.weights import WeightsSection

PresetName = Literal["llama_guard", "qwen3guard", "wildguard", "shieldgemma", "gpt_oss_safeguard"]
"""The published ways to put the question to a guard; see `safethink.monitors.presets`."""


class ModelSection(MonitorSection, WeightsSection):
    """A monitor that is a model of its own."""

    batch_size: int = Field(default=64, ge=1)
    """The most rows read side by side."""

    @property
    def title(self) -> str:
        """Where the model is."""
        return self.path


class GuardMonitorConfig(ModelSection):
    """A generative guard: score = 2 P(safe) - 1 from its verdicts' log-probabilities."""

    kind: Literal["guard"] = "guard"
    path: str = "testbed"
    """Folder or hub id; `testbed` names the shipped guard."""
    preset: Literal["auto"] | PresetName = "auto"
    """How the question is put and read; `auto` goes by the guard's own configuration, name and chat template."""
    template: str | None = None
    """The question in words of your own, with the holes {prompt} and {trace}, and {policy}, {bos}, {eos} where wanted;
    in place of the preset's."""
    forced: str | None = None
    """What the guard has said already when its verdict is read, such as `Safety:`; in place of the preset's."""
    verdicts: dict[str, float] | None = Field(default=None, min_length=2)
    """Each verdict as the guard words it, with its share of safety, 1 safe and 0 unsafe; in place of the preset's."""
    policies: tuple[str, ...] = ()
    """One question is asked per policy, and the worst answer counts; none takes the preset's."""
    controversial: float = Field(default=1.0, ge=0, le=1)
    """How much of P(Controversial) counts as unsafe (Qwen3Guard): 1 is its report's strict mode, 0 its loose mode."""
    server: GuardServerConfig | None = None
    """Where the weights are served; None loads them here. `path` then names the tokenizer and configuration alone."""

    @model_validator(mode="after")
    def _complete(self) -> GuardMonitorConfig:
        if self.template is not None:
            refuse_missing_holes(self.template)
        if self.verdicts is not None:
            shares = self.verdicts.values()
            if not all(0 <= share <= 1 for share in shares) or min(shares) == max(shares):
                raise ValueError("verdicts need shares of safety in [0, 1], at least two of them different")
        return self


class StreamMonitorConfig(ModelSection):
    """Qwen3Guard-Stream: two heads that judge every token of the trace as it is read."""

    kind: Literal["stream"] = "stream"
    controversial: float = Field(default=1.0, ge=0, le=1)
    """How much of P(Controversial) counts as unsafe: 1 is the report's strict mode, 0 its loose mode."""
    debounce: int = Field(default=2, ge=1)
    """So many tokens in a row must be flagged before the trace is; the report's is 2."""
    ignored_categories: tuple[str, ...] = ()
    """Categories of harm that do not count, as the model names them, such as `Copyright Violation`."""


class RewardMonitorConfig(ModelSection):
    """A reward or cost model: one number for the conversation so far, mapped to [-1, 1]."""

    kind: Literal["reward"] = "reward"
    template: str | None = None
    """The conversation in words of your own, with the holes {prompt} and {trace}, and {bos}, {eos} where wanted; None
    takes the chat template, and for a beaver model its published words."""
    label: int = Field(default=0, ge=0)
    """Which output is the reward, where the head has several."""
    higher_is_safer: bool | None = None
    """False for a cost; None goes by the model's own `score_type`, and takes a reward where it has none."""
    center: float = 0.0
    """The reward or cost that scores 0. A cost has 0 by training, a reward has no natural one: calibrate."""
    scale: float = Field(default=1.0, gt=0)
    """How far from the centre scores 1 under `clip`, and 0.76 under `tanh`."""
    squash: Literal["tanh", "clip"] = "tanh"
    """How (reward - center) / scale gets into [-1, 1]."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""

    @model_validator(mode="after")
    def _complete(self) -> RewardMonitorConfig:
        if self.template is not None:
            refuse_missing_holes(self.template)
        return self


def refuse_missing_holes(template: str) -> None:
    """Check that a template has room for what is judged.

    Raises:
        ValueError: it lacks {prompt} or {trace}, or has one of them more than once.
    """
    for name in ("prompt", "trace"):
        hole = f"{{{name}}}"
        if template.count(hole) != 1:
            raise ValueError(f"the template needs the hole {hole} exactly once")
