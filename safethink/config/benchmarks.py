"""Sections of benchmarks, one per kind: where prompts come from, and which of them are asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from safethink.config.published import FileSection, PublishedSection, stem
from safethink.config.section import Section
from safethink.config.tasks import (
    ArcConfig,
    BoolQConfig,
    GpqaConfig,
    Gsm8kConfig,
    Math500Config,
    MultiArithConfig,
    SvampConfig,
)
from safethink.prompts import PromptKind


class TestbedBenchmarkConfig(Section):
    """One kind of testbed prompt."""

    kind: Literal["testbed"] = "testbed"
    prompts: PromptKind
    """Kind of prompts."""
    split: Literal["search", "validation", "test"] = "test"
    """Split by wrappers and hazards."""
    n: int = Field(default=300, ge=1)
    """Number of prompts."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return self.prompts

    @property
    def is_test(self) -> bool:
        """Whether nothing is learned or chosen on these prompts."""
        return self.split == "test"


class JsonlBenchmarkConfig(FileSection):
    """Prompts of one's own: JSONL with `prompt` or `messages`, optional `split`, `group`, `category`, `label`."""

    kind: Literal["jsonl"] = "jsonl"
    prompts: PromptKind
    """Kind of the prompts where a line has no `label`."""
    split: str | None = None
    """Keep only lines of this split."""

    @property
    def is_test(self) -> bool:
        """Whether nothing is learned or chosen on these prompts."""
        return self.split == "test"


class AdvBenchConfig(PublishedSection):
    """AdvBench's harmful behaviours (arXiv 2307.15043)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"goal", "target"}), frozenset({"prompt", "target"}))
    TITLE: ClassVar[str] = "AdvBench"

    kind: Literal["advbench"] = "advbench"


class HarmBenchConfig(PublishedSection):
    """HarmBench's behaviours in text (arXiv 2402.04249); a contextual one is asked behind its context."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"Behavior", "FunctionalCategory", "ContextString", "BehaviorID"}),
    )
    TITLE: ClassVar[str] = "HarmBench"

    kind: Literal["harmbench"] = "harmbench"
    functional: tuple[Literal["standard", "contextual", "copyright"], ...] = Field(
        default=("standard", "contextual"), min_length=1
    )
    """Functional categories that are asked. Whether a text is copied out cannot be judged by reading the answer, so
    copyright is left out unless it is named."""


class StrongRejectConfig(PublishedSection):
    """StrongREJECT's forbidden prompts (arXiv 2402.10260)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"category", "forbidden_prompt"}),)
    TITLE: ClassVar[str] = "StrongREJECT"

    kind: Literal["strongreject"] = "strongreject"


class JailbreakBenchConfig(PublishedSection):
    """JBB-Behaviors (arXiv 2404.01318): harmful ones, or harmless ones on the same topics."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"Index", "Goal", "Target", "Behavior", "Category"}),)
    TITLE: ClassVar[str] = "JailbreakBench"

    kind: Literal["jailbreakbench"] = "jailbreakbench"
    subset: str | None = "behaviors"
    """Configuration of the hub's dataset."""
    split: str | None = None
    """Half of the behaviours, which no column says: `harmful` or `benign`; None tells it by the file's name."""


class XSTestConfig(PublishedSection):
    """XSTest (arXiv 2308.01263): safe prompts that sound unsafe, and unsafe ones beside them."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"prompt", "type", "focus", "note"}),)
    TITLE: ClassVar[str] = "XSTest"

    kind: Literal["xstest"] = "xstest"
    labels: tuple[Literal["safe", "unsafe"], ...] = Field(default=("safe", "unsafe"), min_length=1)
    """Labels that are asked: safe prompts are borderline, unsafe ones harmful."""


class FigStepConfig(PublishedSection):
    """SafeBench, the requests behind FigStep's pictures (arXiv 2311.05608), as text."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"dataset", "category_id", "task_id", "category_name", "question", "instruction"}),
    )
    TITLE: ClassVar[str] = "FigStep"

    kind: Literal["figstep"] = "figstep"
    column: Literal["question", "instruction"] = "question"
    """Wording: the question, or the heading of a list that the picture shows."""


class DoNotAnswerConfig(PublishedSection):
    """Do-Not-Answer (arXiv 2308.13387): questions that a reasoner should decline."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"risk_area", "types_of_harm", "question"}),)
    TITLE: ClassVar[str] = "Do-Not-Answer"

    kind: Literal["do_not_answer"] = "do_not_answer"


class WildJailbreakConfig(PublishedSection):
    """WildJailbreak (arXiv 2406.18510): bare and adversarial requests, harmful and harmless."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"adversarial", "data_type"}),)
    TITLE: ClassVar[str] = "WildJailbreak"
    HUB_OPTIONS: ClassVar[dict[str, Any]] = {"delimiter": "\t", "keep_default_na": False}

    kind: Literal["wildjailbreak"] = "wildjailbreak"
    subset: str | None = "eval"
    """Configuration of the hub's dataset: `eval` or `train`."""


class OrBenchConfig(PublishedSection):
    """OR-Bench (arXiv 2405.20947): harmless prompts that are often refused, and toxic ones."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"prompt", "category"}),)
    TITLE: ClassVar[str] = "OR-Bench"

    kind: Literal["or_bench"] = "or_bench"
    subset: str | None = None
    """Part of the benchmark, which no column says: `or-bench-80k`, `or-bench-hard-1k` or `or-bench-toxic`; None tells
    it by the file's name."""


class JailbreakVConfig(PublishedSection):
    """JailBreakV-28K (arXiv 2404.03027), its attacks that are complete in text; or RedTeam-2K's bare requests."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"jailbreak_query", "redteam_query", "format", "policy"}),
        frozenset({"id", "question", "policy", "from"}),
    )
    TITLE: ClassVar[str] = "JailBreakV-28K"

    kind: Literal["jailbreakv"] = "jailbreakv"
    subset: str | None = "JailBreakV_28K"
    """Configuration of the hub's dataset: `JailBreakV_28K` or `RedTeam_2K`."""
    formats: tuple[Literal["Template", "Persuade", "Logic", "figstep", "SD", "SD_typo", "typo"], ...] = Field(
        default=("Template", "Persuade", "Logic"), min_length=1
    )
    """Formats that are asked; the text of the others asks about a picture."""
    column: Literal["jailbreak_query", "redteam_query"] = "jailbreak_query"
    """Text that is asked: the attack, or the bare request behind it."""


class MmSafetyBenchConfig(PublishedSection):
    """MM-SafetyBench's questions (arXiv 2311.17600) without their pictures."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"Question", "Changed Question", "Key Phrase"}),)
    TITLE: ClassVar[str] = "MM-SafetyBench"

    kind: Literal["mm_safetybench"] = "mm_safetybench"
    path: str
    """The folder `processed_questions`, one of its JSON files, or `OWNER/NAME` on the hub."""
    split: str | None = "Text_only"
    """Split of the hub's dataset."""
    column: Literal["Question", "Changed Question"] = "Question"
    """Wording: as collected, or as changed for the pictures."""


class FieldsConfig(Section):
    """Names of a table's columns; what a table does not have is left out."""

    prompt: str | None = None
    """The prompt; None where `template` puts it together."""
    id: str | None = None
    """Its identity in records and seeds; None for the row's number."""
    label: str | None = None
    """The prompt's kind, in words that `labels` translates."""
    category: str | None = None
    """Topic that rates are reported by."""
    group: str | None = None
    """Rows of one group succeed and fail together; intervals are drawn over groups."""
    split: str | None = None
    """Part of the data; `split` of the benchmark says which is kept."""
    reference: str | tuple[str, ...] = ()
    """Right answers: a column with one or a list of them, or several columns."""
    system: str | None = None
    """A system turn before the prompt."""


class TableBenchmarkConfig(PublishedSection):
    """Any CSV, TSV, JSON, JSONL or Parquet file, by the names of its columns."""

    kind: Literal["table"] = "table"
    fields: FieldsConfig = FieldsConfig()
    """The columns."""
    template: str | None = None
    """A prompt of several columns, such as `{context} {behavior}`; None takes `fields.prompt` as it is."""
    prompts: PromptKind | None = None
    """Kind of the prompts where no label says it."""
    labels: dict[str, PromptKind | None] = Field(default_factory=dict[str, PromptKind | None])
    """Kind by label, such as `{safe: borderline, unsafe: harmful}`; null leaves rows of a label out, and `""` is
    the label of rows without one."""
    format: Literal["csv", "tsv", "json", "parquet"] | None = None
    """Format, where the file's name does not end in it; `json` reads lines too."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Between the cells of a CSV; None for what its name says."""
    comment: str = ""
    """Lines that begin so before the header are passed over, such as `#`."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return self.title or stem(self.path)

    @property
    def is_test(self) -> bool:
        """Whether nothing is learned or chosen on these prompts."""
        return self.split in (None, "test")

    @model_validator(mode="after")
    def _has_prompts_and_kinds(self) -> TableBenchmarkConfig:
        if (self.fields.prompt is None) == (self.template is None):
            raise ValueError("give either `fields.prompt` or `template`")
        if self.prompts is None and self.fields.label is None:
            raise ValueError("give `prompts`, the kind of all, or `fields.label` with `labels`")
        if (self.fields.label is None) != (not self.labels):
            raise ValueError("`fields.label` and `labels` go together")
        return self


BenchmarkConfig = Annotated[
    TestbedBenchmarkConfig
    | JsonlBenchmarkConfig
    | TableBenchmarkConfig
    | AdvBenchConfig
    | HarmBenchConfig
    | StrongRejectConfig
    | JailbreakBenchConfig
    | XSTestConfig
    | FigStepConfig
    | DoNotAnswerConfig
    | WildJailbreakConfig
    | OrBenchConfig
    | JailbreakVConfig
    | MmSafetyBenchConfig
    | Gsm8kConfig
    | SvampConfig
    | MultiArithConfig
    | Math500Config
    | ArcConfig
    | BoolQConfig
    | GpqaConfig,
    Field(discriminator="kind"),
]
