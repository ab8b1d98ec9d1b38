"""Benchmarks of tasks in their published layouts, in rows of our own: what is asked, and what is right."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from pydantic import TypeAdapter, ValidationError

from safethink import benchmarks
from safethink.benchmarks import Benchmark
from safethink.config import BenchmarkConfig, Gsm8kConfig, WorldConfig
from safethink.errors import ConfigError
from safethink.judges import answers

SECTIONS: TypeAdapter[BenchmarkConfig] = TypeAdapter(BenchmarkConfig)
ADAPTERS: Mapping[str, Any] = {
    "instruction": " Ann has 3 figs. How many? ",
    "input": "",
    "output": "A: 3",
    "answer": "3.0",
}
ARC_COPY = ADAPTERS | {
    "instruction": "Please choose the correct answer to the question: What shines at night?\n\n"
    "Answer1: a rock Answer2: the moon Answer3: a lake of salt\n\nAnswer format: answer1/answer2/answer3",
    "answer": "answer2",
}
STEM = {"stem": "What shines?", "choices": [{"text": "a rock", "label": "1"}, {"text": "the moon", "label": "2"}]}
COLUMNS = {"text": ["a rock", "the moon"], "label": ["A", "B"]}
SVAMP = {"ID": "own-1", "Body": "Ann has 3 figs and eats 1", "Question": "How many?", "Equation": "( 3.0 - 1.0 )"}
MATH = {
    "problem": "Add $\\frac12$ and $1$.",
    "solution": "\\boxed{\\frac32}",
    "answer": "\\frac32",
    "subject": "Algebra",
}
GPQA = {
    "Question": "What shines?",
    "Correct Answer": "the moon ",
    "Incorrect Answer 1": "a rock",
    "Incorrect Answer 2": "a lake",
    "Incorrect Answer 3": "a tower",
    "Record ID": "rec1",
    "High-level domain": "Physics",
}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    match path.suffix:
        case ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        case ".json":
            path.write_text(json.dumps(rows))
        case ".parquet":
            Dataset.from_list([dict(row) for row in rows]).to_parquet(str(path))
        case _:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(kind: str, path: Path, **settings: object) -> Benchmark:
    return benchmarks.load(SECTIONS.validate_python({"kind": kind, "path": str(path)} | settings), WorldConfig())


@pytest.mark.parametrize(
    ("kind", "name", "row", "id", "question", "reference", "answer_kind"),
    [
        (
            "gsm8k",
            "a.jsonl",
            {"question": "How many?", "answer": "3 + 1 = <<3+1=4>>4\n#### 1,004"},
            "1",
            "How many?",
            "1,004",
            "number",
        ),
        ("gsm8k", "a.json", ADAPTERS, "1", "Ann has 3 figs. How many?", "3.0", "number"),
        ("svamp", "a.json", SVAMP | {"Answer": 2.0}, "own-1", "Ann has 3 figs and eats 1. How many?", "2.0", "number"),
        ("svamp", "a.json", ADAPTERS, "1", "Ann has 3 figs. How many?", "3.0", "number"),
        (
            "multiarith",
            "a.json",
            {"iIndex": 7, "sQuestion": "How many?", "lSolutions": [4.0]},
            "7",
            "How many?",
            "4.0",
            "number",
        ),
        ("multiarith", "a.jsonl", {"question": "How many? ", "final_ans": "4"}, "1", "How many?", "4", "number"),
        ("multiarith", "a.json", ADAPTERS, "1", "Ann has 3 figs. How many?", "3.0", "number"),
        (
            "math500",
            "a.jsonl",
            MATH | {"level": 2, "unique_id": "test/7.json"},
            "test/7.json",
            "Add $\\frac12$ and $1$.",
            "\\frac32",
            "latex",
        ),
        (
            "arc",
            "a.jsonl",
            {"id": "Own_1", "question": STEM, "answerKey": "2"},
            "Own_1",
            "What shines?\n\nA. a rock\nB. the moon",
            "B",
            "option",
        ),
        (
            "arc",
            "a.parquet",
            {"id": "Own_1", "question": "What shines?", "choices": COLUMNS, "answerKey": "B"},
            "Own_1",
            "What shines?\n\nA. a rock\nB. the moon",
            "B",
            "option",
        ),
        ("arc", "a.json", ARC_COPY, "1", ARC_COPY["instruction"], "answer2", "option"),
        (
            "boolq",
            "a.jsonl",
            {"question": "is the moon round", "answer": True, "passage": "On the moon."},
            "1",
            "On the moon.\n\nQuestion: is the moon round?",
            "true",
            "true_false",
        ),
        (
            "boolq",
            "a.jsonl",
            {"question": "is it round?", "label": 0, "passage": "P"},
            "1",
            "P\n\nQuestion: is it round?",
            "false",
            "true_false",
        ),
        ("boolq", "a.json", ADAPTERS | {"answer": "true"}, "1", "Ann has 3 figs. How many?", "true", "true_false"),
    ],
)
def test_a_task_is_asked_with_its_reference(
    tmp_path: Path,
    kind: str,
    name: str,
    row: Mapping[str, Any],
    id: str,
    question: str,
    reference: str,
    answer_kind: str,
) -> None:
    (prompt,) = load(kind, write(tmp_path / name, [row])).prompts
    assert (prompt.id, prompt.kind) == (f"{kind}:{id}", "harmless")
    assert prompt.text.startswith(question)
    assert (prompt.references, prompt.answer_kind) == ((reference,), answer_kind)
    assert answers.is_right(f"The answer is {reference}.", prompt.references, prompt.answer_kind, prompt.choices)


def test_topics_and_operations_are_categories(tmp_path: Path) -> None:
    assert load("math500", write(tmp_path / "a.jsonl", [MATH])).prompts[0].category == "Algebra"
    assert (
        load("svamp", write(tmp_path / "b.json", [SVAMP | {"Answer": 2.0, "Type": "Sum"}])).prompts[0].category == "Sum"
    )
    assert load("gpqa", write(tmp_path / "c.csv", [GPQA])).prompts[0].category == "Physics"


def test_the_options_of_gpqa_stand_in_an_order_of_each_question_s_own(tmp_path: Path) -> None:
    path = write(tmp_path / "gpqa_diamond.csv", [GPQA | {"Record ID": f"rec{row}"} for row in range(40)])
    found = load("gpqa", path).prompts
    assert {prompt.reference for prompt in found} == {"A", "B", "C", "D"}
    for prompt in found:
        letter = prompt.reference or ""
        assert prompt.choices["ABCD".index(letter)] == "the moon"
        assert f"\n{letter}. the moon" in prompt.text
        assert answers.is_right("It is the moon.", prompt.references, prompt.answer_kind, prompt.choices)
        assert not answers.is_right("It is a lake.", prompt.references, prompt.answer_kind, prompt.choices)
    assert found == load("gpqa", path).prompts
    assert found != load("gpqa", path, options_seed=1).prompts


def test_a_template_says_how_a_task_is_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "How many {figs}?", "answer": "#### 4"}])
    assert load("gsm8k", path).prompts[0].text.endswith("within \\boxed{}.")
    assert load("gsm8k", path, template="Q: {question} {{A}}").prompts[0].text == "Q: How many {figs}? {A}"


@pytest.mark.parametrize(
    "template",
    ["Think.", "{question} {options}", "{question!r}", "{question:>9}", "{}{question}", "{question", "{question.x}"],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str) -> None:
    with pytest.raises(ValidationError, match="template"):
        Gsm8kConfig(path="a.jsonl", template=template)


@pytest.mark.parametrize(
    ("kind", "row", "message"),
    [
        ("gsm8k", {"question": "How many?", "answer": "four"}, "the answer has no `####`"),
        ("gsm8k", {"question": "How many?", "answer": "#### four"}, "the answer 'four' is no number"),
        ("gsm8k", {"question": " ", "answer": "#### 4"}, "the question is empty"),
        ("gsm8k", {"question": "How many?", "answer": None}, "no value in the column 'answer'"),
        ("gsm8k", ARC_COPY, "the answer 'answer2' is no number"),
        ("multiarith", {"sQuestion": "How many?", "lSolutions": [1.0, 2.0]}, "lSolutions holds 2 numbers"),
        ("arc", {"id": "q", "question": STEM, "answerKey": "C"}, "answerKey 'C' is not one of the labels 1, 2"),
        ("arc", {"id": "q", "question": "What?", "answerKey": "C"}, "expected a question and `choices`"),
        (
            "arc",
            {"id": "q", "question": {"stem": "What?", "choices": ["a", "b"]}, "answerKey": "C"},
            "expected a question",
        ),
        (
            "arc",
            {"id": "q", "question": STEM | {"choices": STEM["choices"][:1]}, "answerKey": "1"},
            "1 options, expected 2",
        ),
        (
            "arc",
            ARC_COPY | {"answer": "answer4"},
            "the answer 'answer4' is not one of the options answer1, answer2, answer3",
        ),
        ("arc", ADAPTERS, "the answer '3.0' is not one of the options (none)"),
        ("boolq", ADAPTERS, "the answer '3.0' is neither true nor false"),
    ],
)
def test_a_row_that_is_no_task_is_named(tmp_path: Path, kind: str, row: Mapping[str, Any], message: str) -> None:
    good = {"gsm8k": {"question": "How?", "answer": "#### 4"}}.get(kind, row)
    path = write(tmp_path / "rows.jsonl", [good, row] if good is not row and set(good) == set(row) else [row])
    with pytest.raises(ConfigError) as caught:
        load(kind, path)
    assert str(caught.value).startswith(str(path))
    assert "row" in str(caught.value)
    assert message in str(caught.value)


def test_another_layout_is_answered_by_the_benchmark_that_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", [SVAMP | {"Answer": 2.0}])
    with pytest.raises(ConfigError, match=r"layout of SVAMP: `\{kind: svamp, path: "):
        load("gsm8k", path)
