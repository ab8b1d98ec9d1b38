# pyright: standard
"""Rationales of GSM8K (arXiv 2110.14168, MIT) as rows, read from its training file or from the hub; none ship."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Final

from optimize.reasoners.rows import Row, correction
from safethink.errors import MissingFileError

_MARK: Final = re.compile(r"<<[^>]*>>")


def rationales(path: str, count: int, seed: int) -> list[Row]:
    """Rows of GSM8K with two to four short steps, seeded."""
    lines = _lines(path)
    random.Random(f"rationales {seed}").shuffle(lines)
    rows: list[Row] = []
    for number, question, solution in lines:
        *steps, last = [line.strip() for line in _MARK.sub("", solution).splitlines() if line.strip()]
        if not 2 <= len(steps) <= 4 or len(question) + len(solution) > 400 or not last.startswith("####"):
            continue
        row = Row(
            id=f"rationale-{number}",
            kind="rationale",
            request=question,
            steps=tuple(step if step.endswith(".") else f"{step}." for step in steps),
            answer=f"The answer is {last.removeprefix('####').strip()}.",
        )
        if correction(row) is None:
            rows.append(row)
    return rows[:count]


def _lines(path: str) -> list[tuple[int, str, str]]:
    """Number, question and solution of each row of GSM8K's training set.

    Raises:
        MissingFileError: there is no such set, or a line of the file is no row of it.
    """
    if Path(path).is_file():
        records = [
            _record(path, number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()
        ]
    else:
        from datasets import load_dataset

        try:
            records = [dict(record) for record in load_dataset(path, "main", split="train")]
        except (OSError, ValueError, ConnectionError) as error:
            raise MissingFileError(f"corpus.rationales: no file and no data set on the hub at {path!r}") from error
    return [(number, record["question"], record["answer"]) for number, record in enumerate(records)]


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MissingFileError(f"corpus.rationales: {path} is not UTF-8: {error}") from error


def _record(path: str, number: int, line: str) -> dict[str, str]:
    try:
        found = json.loads(line)
        return {"question": found["question"], "answer": found["answer"]}
    except (ValueError, KeyError, TypeError) as error:
        raise MissingFileError(f"corpus.rationales: {path}, line {number}: no question and answer") from error
