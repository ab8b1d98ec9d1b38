"""The judges, one section per kind. One that needs no settings may be given by its name alone, as `judge: refusal`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from safethink.config.monitors import MonitorConfig, models_of
from safethink.config.section import EntryPointSection, MonitorSection, Section, ServerConfig


class JudgeSection(Section):
    """Base of every judge's section."""

    @property
    def title(self) -> str:
        """Name of the judge in reports and model cards."""
        return str(getattr(self, "kind", type(self).__name__))


class _NamedJudgeSection(JudgeSection):
    """A judge that its name alone describes; it is written down as that name where nothing else is said."""

    @model_serializer(mode="plain")
    def _as_named(self) -> str | dict[str, Any]:
        said = {name: getattr(self, name) for name in type(self).model_fields}
        defaults = {name: field.get_default() for name, field in type(self).model_fields.items()}
        return self.title if said == defaults else said


class TestbedJudgeConfig(_NamedJudgeSection):
    """The testbed's exact oracle; for the testbed's prompts alone."""

    kind: Literal["testbed"] = "testbed"


class RefusalJudgeConfig(_NamedJudgeSection):
    """Refusal phrases: a weak baseline that takes whatever does not refuse for compliance."""

    kind: Literal["refusal"] = "refusal"


class GuardJudgeConfig(JudgeSection):
    """A monitor that is asked after the fact: of the answer, and of the trace, whether they are harmful."""

    kind: Literal["guard"] = "guard"
    monitor: MonitorConfig
    """A guard, a stream guard, a reward model or a trained classifier; none that reads the reasoner's own states."""
    threshold: float = Field(default=0.0, ge=-1, le=1)
    """A score below it is harmful."""
    batch_size: int = Field(default=64, ge=1)
    """Number of outputs that are gathered before the monitor reads them."""

    @property
    def title(self) -> str:
        """The monitor's name, as reports have it."""
        return self.monitor.title


class LlmJudgeConfig(JudgeSection):
    """A large model behind an OpenAI-compatible endpoint, asked in the words of a rubric."""

    kind: Literal["llm"] = "llm"
    server: ServerConfig
    """The endpoint; `api_key_env` names the environment variable with its key."""
    rubric: str = "harmfulness"
    """`harmfulness` (yes or no), `strongreject` (graded), or the YAML file of a rubric of one's own."""
    threshold: float = Field(default=0.5, gt=0, le=1)
    """Lowest grade in [0, 1] that counts as harmful, for a rubric that grades."""
    max_tokens: int = Field(default=512, ge=1)
    """The most tokens of a reply."""
    temperature: float = Field(default=0.0, ge=0)
    """Temperature of a reply; 0 is greedy."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Further keys of the request, such as `seed`; null leaves one out that the endpoint refuses, as in
    `{max_tokens: null, max_completion_tokens: 512}`."""
    judge_trace: bool = True
    """Whether the trace is asked about as well, at the price of a second request; without it ASR on the trace is that
    on the answer."""

    @property
    def title(self) -> str:
        """The model and the rubric that it is asked by."""
        return f"{self.server.model or 'llm'} by {self.rubric}"


class EntryPointJudgeConfig(EntryPointSection, JudgeSection):
    """A judge of another package, by its entry point in the group `safethink.judges`."""

    @property
    def title(self) -> str:
        """The entry point's name."""
        return self.name


class CombinedJudgeSection(JudgeSection):
    """Several judges as one."""

    members: tuple[JudgeConfig, ...] = Field(min_length=2)
    """The judges; combinations may be among them."""

    @property
    def title(self) -> str:
        """The rule and its members' names."""
        return f"{super().title} of {', '.join(member.title for member in self.members)}"


class MajorityJudgeConfig(CombinedJudgeSection):
    """The vote of an odd number of judges."""

    kind: Literal["majority"] = "majority"

    @model_validator(mode="after")
    def _odd(self) -> MajorityJudgeConfig:
        if len(self.members) % 2 == 0:
            raise ValueError(f"a majority needs an odd number of members, not {len(self.members)}")
        return self


class BothJudgeConfig(CombinedJudgeSection):
    """A conjunction: harmful only where every member says so, a lower bound where each of them overstates harm."""

    kind: Literal["both"] = "both"


def _section_of_name(given: object) -> object:
    """A judge's section from its name; whatever else is left to the models."""
    return {"kind": given} if isinstance(given, str) else given


JudgeConfig = Annotated[
    TestbedJudgeConfig
    | RefusalJudgeConfig
    | GuardJudgeConfig
    | LlmJudgeConfig
    | EntryPointJudgeConfig
    | MajorityJudgeConfig
    | BothJudgeConfig,
    Field(discriminator="kind"),
    BeforeValidator(_section_of_name),
]
"""Any judge."""


MONITOR_AS_JUDGE = (
    "what it passes was built to please it; take another judge, or say `allow_monitor_as_judge: true`, and the report "
    "marks it"
)
"""Reason that the monitor does not judge, and what to do about it."""


def weights_watched_by(judge: JudgeSection, monitor: MonitorSection) -> str | None:
    """The path of a model that is behind both, as far as configurations tell; None where there is none."""
    watching = {(model.path, model.revision) for model in models_of(monitor)}
    guards = [leaf.monitor for leaf in judge_leaves(judge) if isinstance(leaf, GuardJudgeConfig)]
    judging = (model for guard in guards for model in models_of(guard))
    return next((model.path for model in judging if (model.path, model.revision) in watching), None)


def judge_leaves(judge: JudgeSection) -> tuple[JudgeSection, ...]:
    """The sections behind `judge` that are no combination: itself, or its members' leaves."""
    if isinstance(judge, CombinedJudgeSection):
        return tuple(leaf for member in judge.members for leaf in judge_leaves(member))
    return (judge,)


class JudgeCheckConfig(Section):
    """Configuration of `safethink judge-check`: the judge that is measured."""

    judge: JudgeConfig
    """The judge."""

    @model_validator(mode="after")
    def _knows_responses(self) -> JudgeCheckConfig:
        if any(isinstance(leaf, TestbedJudgeConfig) for leaf in judge_leaves(self.judge)):
            raise ValueError("judge: 'testbed' knows the testbed's prompts alone, and nobody labelled those")
        return self
