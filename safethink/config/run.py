"""A guarded run: the reasoner and its thinking format, limits, sampling; and what guards it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final, Literal, cast

from pydantic import Field, field_validator, model_validator

from safethink.config import families
from safethink.config.defenses import DefenseConfig, SafeThinkConfig
from safethink.config.families import AUTO
from safethink.config.family import Family
from safethink.config.monitors import GuardMonitorConfig, MonitorConfig
from safethink.config.section import Section, ServerConfig, WeightsSection

DAY: Final = "strftime_now"
"""Name by which a chat template asks for the current day; as an argument it is a date, `2026-11-29`."""


class ReasonerConfig(WeightsSection):
    """The model being guarded."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"template_args", "gguf_file", "base"})

    path: str
    """Folder or hub id of a model, or of a LoRA adapter of peft, which is merged into its base; `testbed`,
    `testbed:null` and `smollm2-reasoner` name what ships."""
    base: str | None = None
    """Folder or hub id of the base model, where `path` is an adapter; None takes the one that the adapter names."""
    gguf_file: str | None = None
    """Name of a GGUF file in the folder or hub repository of the model, or of the adapter's base: its weights are
    dequantised to `dtype` and take as much memory as any others. Needs the extra `gguf`."""
    attn_implementation: str | None = None
    """Passed to transformers; None lets it choose. Others than `sdpa` and `eager` take rows one at a time."""
    compile_backend: str | None = None
    """Backend of torch.compile, such as `inductor`; the first minutes go into compiling. None for none."""
    max_cached_tokens: int | None = Field(default=None, ge=1)
    """The most tokens whose keys and values are kept at once, over all rows; None for as many as fit into memory.
    Recurrent states are not counted."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""
    template_args: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    """Arguments of the chat template, by the names that it reads, such as `reasoning_effort: low`; `strftime_now` is
    the date that it writes down, today's where it is left out. The switch of the thinking is set by itself."""
    server: ServerConfig | None = None
    """Server of the weights; None loads them here. `path` then names the tokenizer and configuration alone."""

    @model_validator(mode="after")
    def _of_one_rounding(self) -> ReasonerConfig:
        if self.gguf_file is not None and self.quantization is not None:
            raise ValueError("gguf_file: a GGUF file is dequantised, so quantization is not for it; leave one out")
        return self

    @field_validator("template_args", mode="before")
    @classmethod
    def _scalars(cls, args: object) -> object:
        if not isinstance(args, Mapping):
            return args
        named = cast("Mapping[str, object]", args)
        wrong = [name for name, value in named.items() if not isinstance(value, str | int | float | bool | None)]
        if wrong:
            raise ValueError(f"{wrong[0]} takes a text, a number, true, false or null")
        return named

    def on_the_day_of(self, begun: ReasonerConfig) -> ReasonerConfig:
        """The section with the day that a run was begun on, where nothing is said of the day here."""
        day = begun.template_args.get(DAY)
        if day is None or DAY in self.template_args:
            return self
        return self.replace(template_args={DAY: day, **self.template_args})


class ThoughtConfig(Section):
    """Thinking format: the family's, unless said otherwise; None takes the family's."""

    family: str = AUTO
    """Family of reasoners; `auto` tells it from what the tokenizer declares, the chat template and the model's
    configuration. `plain` guards a model that does not reason: its answer is watched step by step."""
    open_tag: str | None = None
    """Opening tag of the thinking; empty where nothing opens it."""
    open_break: str | None = None
    """Break between an opener that is put there for the model and the first word."""
    close_tag: str | None = None
    """Closing tag, as the model writes it; empty where only the last of `stage_turns` closes the thinking."""
    close_lead: str | None = None
    """Text before `close_tag` where a defense closes the thinking itself."""
    message_breaks: tuple[str, ...] | None = None
    """Break between two messages of one thinking; no part of its text."""
    answer_break: str | None = None
    """Break between the closed thinking and an answer that a defense writes."""
    answer_tags: tuple[str, ...] | None = None
    """Tags that an answer may be wrapped in; no part of its text."""
    step_delimiter: str | tuple[str, ...] | None = None
    """Step delimiter, one or any of several; found on decoded text."""
    sentences: bool | None = None
    """Whether the end of a sentence ends a step as well."""
    step_tokens: int | None = Field(default=None, ge=0)
    """Above 0, a step is this many tokens, whatever delimiters stand in it; the words between two scores are then
    equally many for every model, as in CARE (arXiv 2509.06982)."""
    stage_turns: tuple[str, ...] | None = None
    """User message of each turn of a reasoner that thinks over several; the first is put behind the prompt, the
    last asks for the answer."""
    prefix_separator: str | None = None
    """Injected right behind a prefix, so that it stands on a line of its own and is not the opening of a step that the
    reasoner would complete; empty for nothing."""

    @field_validator("family")
    @classmethod
    def _known(cls, name: str) -> str:
        return name if name == AUTO else families.named(name).name

    def applied_to(self, family: Family) -> Family:
        """A family's way of writing, with what is said otherwise here."""
        changes = {name: value for name, value in self if name != "family" and value is not None}
        if isinstance(self.step_delimiter, str):
            changes["step_delimiter"] = (self.step_delimiter,)
        return replace(family, **changes)

    @classmethod
    def complete(cls, family: Family) -> ThoughtConfig:
        """A configuration that leaves nothing to the family."""
        values = {name: getattr(family, name) for name in cls.model_fields if name != "family"}
        return cls(family=family.name, **values)


class LimitsConfig(Section):
    """Limits on the length of steps, traces and answers, in tokens."""

    max_step_tokens: int = Field(default=256, ge=1)
    """A step is cut after this many tokens."""
    max_trace_tokens: int = Field(default=4096, ge=1)
    """A trace that has not closed by then is invalid."""
    max_answer_tokens: int = Field(default=1024, ge=1)
    """An answer is cut after this many tokens."""


class SamplingConfig(Section):
    """Sampling of the reasoner's next token."""

    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass; 1 keeps everything."""
    top_k: int = Field(default=0, ge=0)
    """Number of most likely tokens kept; 0 keeps everything."""


class WorldConfig(Section):
    """The testbed's dynamics and prompts."""

    kind: Literal["planted", "hackable", "costly"] = "planted"
    """Dynamics; the shipped reasoners have `planted`, the others' are trained by `safethink-optimize testbed`."""
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
