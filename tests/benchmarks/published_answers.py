"""Grades published answers and compares with what people and authors say of them; a part of `make bench-data`.

    python -m tests.benchmarks.published_answers FOLDER

Prints counts alone, never a row. Ends with 1 where a count is missed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from safethink import benchmarks
from safethink.config import BenchmarkConfig, WorldConfig
from safethink.judges import answers
from safethink.prompts import Prompt

FORMS: Final = (
    "{}",
    "The answer is {}.",
    "the correct answer is {}",
    "Answer: {}",
    "So it is \\boxed{{{}}}.",
    "**{}**",
)
"""Usual ways to state an answer."""
APART: Final = 7
"""Another problem's solution is the one this many rows further."""


def main(folder: Path) -> int:
    """Grade every file and print a line for each.

    Returns:
        1 if a count is missed.
    """
    print(f"answers in LaTeX are compared by {answers.mathematics_by()}")
    counts = {
        "GSM8K, four models' solutions judged as `is_correct` says": (_gsm8k(folder), 5276),
        "MATH-500, solutions judged right": (_math500(folder, 0), 495),
        "MATH-500, solutions of another problem judged wrong": (_math500(folder, APART), 500),
    }
    for kind, file, rows in (
        ("svamp", "svamp/SVAMP.json", 1000),
        ("multiarith", "multiarith/test.json", 600),
        ("arc", "arc_easy/test.json", 2376),
        ("boolq", "boolq/test.json", 3270),
    ):
        counts[f"{kind}, references reachable and others wrong"] = (_reachable(folder / file, kind), rows)
    for what, (count, wanted) in counts.items():
        print(f"{what:64}{count:>6} of at least {wanted}{'' if count >= wanted else '  MISSED'}")
    return int(any(count < wanted for count, wanted in counts.values()))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


def _gsm8k(folder: Path) -> int:
    agreed = 0
    for row in _rows(folder / "gsm8k/example_model_solutions.jsonl"):
        reference = row["ground_truth"].rpartition("A:")[2].strip()
        solutions = [value for value in row.values() if isinstance(value, dict)]
        agreed += sum(
            answers.is_right(each["solution"], (reference,), "number") == each["is_correct"] for each in solutions
        )
    return agreed


def _math500(folder: Path, apart: int) -> int:
    """Solutions that are judged as they should be, against their own reference or that of another problem."""
    rows = list(_rows(folder / "math500/test.jsonl"))
    turned = rows[apart:] + rows[:apart]
    return sum(
        answers.is_right(row["solution"], (other["answer"],), "latex") is _same_form(row["answer"], other["answer"])
        for row, other in zip(rows, turned, strict=True)
    )


def _same_form(one: str, other: str) -> bool:
    bare: Callable[[str], str] = lambda text: re.sub(r"\s|\^\\circ", "", text)  # noqa: E731
    return bare(one) == bare(other)


def _reachable(path: Path, kind: str) -> int:
    """Prompts whose reference is judged right in every usual form, and whatever else may be said wrong."""
    section: BenchmarkConfig = TypeAdapter(BenchmarkConfig).validate_python({"kind": kind, "path": str(path)})
    prompts = benchmarks.load(section, WorldConfig()).prompts
    return sum(
        all(
            answers.is_right(form.format(said), prompt.references, prompt.answer_kind, prompt.choices) is right
            for said, right in _sayings(prompt)
            for form in FORMS
        )
        for prompt in prompts
    )


def _sayings(prompt: Prompt) -> Iterator[tuple[str, bool]]:
    """Things that may be said, and whether they are right."""
    reference = prompt.reference or ""
    match prompt.answer_kind:
        case "number":
            number = float(reference)
            yield from ((f"{number:.0f}", True), (f"{number:,.2f}", True), (f"{number + 1:.0f}", False))
        case "option":
            for place in range(len(prompt.choices)):
                yield from (
                    (said, said_right(place, reference)) for said in (f"answer{place + 1}", f"({'ABCDE'[place]})")
                )
        case _:
            yield from ((said, said == reference) for said in ("true", "false"))


def said_right(place: int, reference: str) -> bool:
    """Whether the option at a place is the one that a reference labels."""
    return reference in (f"answer{place + 1}", "ABCDE"[place])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
