"""Sections of benchmarks whose tasks have a right answer: what is asked, and where the answer is to stand."""

from __future__ import annotations

from string import Formatter
from typing import ClassVar, Final, Literal

from pydantic import field_validator

from safethink.config.published import PublishedSection

IN_A_BOX: Final = "{question}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."
"""Mathematics as the cards of Qwen's and DeepSeek's reasoners ask for it."""
BY_LETTER: Final = "{question}\n\n{options}\n\nPut the letter of the right option within \\boxed{{}}."

LLM_ADAPTERS: Final = frozenset({"instruction", "input", "output", "answer"})
"""Columns of the copies that come with LLM-Adapters (arXiv 2304.01933)."""


class TaskSection(PublishedSection):
    """Settings of every benchmark of tasks."""

    PARTS: ClassVar[tuple[str, ...]] = ("question",)
    """Parts of a task that its template may name."""

    template: str = IN_A_BOX
    """The prompt, with the parts of a task in braces; a brace of the text itself is written twice."""

    @field_validator("template")
    @classmethod
    def _names_parts(cls, given: str) -> str:
        named = [(name, form, conversion) for _, name, form, conversion in Formatter().parse(given) if name is not None]
        if not all(name in cls.PARTS and not form and not conversion for name, form, conversion in named):
            raise ValueError(f"in braces there may stand {', '.join(cls.PARTS)}")
        if "question" not in {name for name, _, _ in named}:
            raise ValueError("{question} is missing")
        return given


class Gsm8kConfig(TaskSection):
    """GSM8K's word problems of several steps (arXiv 2110.14168)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"question", "answer"}), LLM_ADAPTERS)
    TITLE: ClassVar[str] = "GSM8K"

    kind: Literal["gsm8k"] = "gsm8k"
    subset: str | None = "main"
    """Configuration of the hub's dataset."""
    split: str | None = "test"
    """Split of the hub's dataset."""


class SvampConfig(TaskSection):
    """SVAMP's one-step word problems with a twist (arXiv 2103.07191)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"Body", "Question", "Equation", "Answer"}),
        LLM_ADAPTERS,
    )
    TITLE: ClassVar[str] = "SVAMP"

    kind: Literal["svamp"] = "svamp"
    split: str | None = "test"
    """Split of the hub's dataset."""


class MultiArithConfig(TaskSection):
    """MultiArith's word problems of two steps (Roy and Roth, EMNLP 2015)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"sQuestion", "lSolutions"}),
        frozenset({"question", "final_ans"}),
        LLM_ADAPTERS,
    )
    TITLE: ClassVar[str] = "MultiArith"

    kind: Literal["multiarith"] = "multiarith"
    split: str | None = "test"
    """Split of the hub's dataset."""


class Math500Config(TaskSection):
    """MATH-500, problems of competitions (arXiv 2305.20050, a part of MATH, arXiv 2103.03874)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"problem", "solution", "answer", "subject"}),)
    TITLE: ClassVar[str] = "MATH-500"

    kind: Literal["math500"] = "math500"
    split: str | None = "test"
    """Split of the hub's dataset."""


class ArcConfig(TaskSection):
    """ARC's multiple-choice questions of grade-school science (arXiv 1803.05457), easy or challenge."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"id", "question", "answerKey"}),
        frozenset({"id", "question", "choices", "answerKey"}),
        LLM_ADAPTERS,
    )
    TITLE: ClassVar[str] = "ARC"
    PARTS: ClassVar[tuple[str, ...]] = ("question", "options")

    kind: Literal["arc"] = "arc"
    template: str = BY_LETTER
    """The prompt, with the parts of a task in braces; a brace of the text itself is written twice. The copy of
    LLM-Adapters is asked as it is."""
    subset: str | None = "ARC-Easy"
    """Configuration of the hub's dataset: `ARC-Easy` or `ARC-Challenge`."""
    split: str | None = "test"
    """Split of the hub's dataset."""


class BoolQConfig(TaskSection):
    """BoolQ's questions with yes or no for an answer (arXiv 1905.10044)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"question", "passage", "answer"}), LLM_ADAPTERS)
    TITLE: ClassVar[str] = "BoolQ"
    PARTS: ClassVar[tuple[str, ...]] = ("question", "passage")

    kind: Literal["boolq"] = "boolq"
    template: str = "{passage}\n\nQuestion: {question}?\n\nEnd with the answer, yes or no."
    """The prompt, with the parts of a task in braces; a brace of the text itself is written twice. The copy of
    LLM-Adapters, which has no passages, is asked as it is."""
    split: str | None = "validation"
    """Split of the hub's dataset."""


class GpqaConfig(TaskSection):
    """GPQA's multiple-choice questions of graduate-level science (arXiv 2311.12022)."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"Question", "Correct Answer", "Incorrect Answer 1"}),)
    TITLE: ClassVar[str] = "GPQA"
    PARTS: ClassVar[tuple[str, ...]] = ("question", "options")

    kind: Literal["gpqa"] = "gpqa"
    template: str = BY_LETTER
    """The prompt, with the parts of a task in braces; a brace of the text itself is written twice."""
    subset: str | None = "gpqa_diamond"
    """Configuration of the hub's dataset: `gpqa_diamond`, `gpqa_main` or `gpqa_extended`."""
    split: str | None = "train"
    """Split of the hub's dataset, its only one."""
    options_seed: int = 0
    """Seeds the order of the options, drawn for each question by itself."""
