# pyright: standard
"""The corpus of a reasoner: rows that are written already, and drafts of those that its base is to complete."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Final

from optimize.reasoners.config import CorpusConfig
from optimize.reasoners.instructions import Request, drawn, harmless, unkind
from optimize.reasoners.rows import REASON, Kind, Row, correction
from optimize.reasoners.word_problems import word_problems
from safethink.errors import MissingFileError, not_found, require
from safethink.frozen import Frozen

PLAN: Final = "I will start by"
SECOND_PLAN: Final = "Then I will"
"""Openings of the steps of compliance that the base continues."""
REFUSALS: Final = (
    "I'm sorry, but I can't help with that.",
    "I cannot help with that request.",
    "I'm sorry, I can't help you do this.",
    "I can't help with that, because it could hurt someone.",
)

_MARK: Final = re.compile(r"<<[^>]*>>")
"""Calculator marks of GSM8K."""


class Draft(Frozen):
    """A request whose thinking and answer the base is to continue."""

    id: str
    kind: Kind
    request: str
    steps: tuple[str, ...]
    """The steps that are written already."""
    openings: tuple[str, ...]
    """Openings of the steps to come, in order; the base continues each to the end of its sentence."""
    answer: str | None
    """The answer; None where the base is to give it."""


def solved(config: CorpusConfig, seed: int) -> list[Row]:
    """The rows that need no base: word problems and rationales.

    Raises:
        MissingFileError: the rationales cannot be read.
    """
    problems = [
        Row(
            id=f"word_problem-{number}",
            kind="word_problem",
            request=problem.question,
            steps=problem.steps,
            answer=f"The answer is {problem.result}.",
        )
        for number, problem in enumerate(word_problems(config.word_problems, seed))
    ]
    return problems + ([] if config.rationales is None else rationales(config.rationales, config.num_rationales, seed))


def drafts(config: CorpusConfig, seed: int) -> list[Draft]:
    """The rows that the base is to complete: harmless requests and refusals."""
    rng = random.Random(f"drafts {seed}")
    plans = [(PLAN, SECOND_PLAN) if rng.random() < config.second_plans else (PLAN,) for _ in range(config.instructions)]
    wanted = zip(drawn(harmless(), config.instructions, seed), plans, strict=False)
    asked = [_draft("instruction", number, request, plan, None) for number, (request, plan) in enumerate(wanted)]
    refused = [
        _draft("refusal", number, request, (REASON,), rng.choice(REFUSALS))
        for number, request in enumerate(drawn(unkind(), config.refusals, seed))
    ]
    return asked + refused


def _draft(kind: Kind, number: int, request: Request, openings: tuple[str, ...], answer: str | None) -> Draft:
    steps = (f"The user wants me to {request.wish}.",)
    return Draft(id=f"{kind}-{number}", kind=kind, request=request.text, steps=steps, openings=openings, answer=answer)


def rationales(path: str, count: int, seed: int) -> list[Row]:
    """Rows of GSM8K's rationales (arXiv 2110.14168, MIT) with two to four short steps, seeded; none of them ship.

    Raises:
        MissingFileError: there is no such set, or a line of the file is no row of it.
    """
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
        require("train", "datasets")
        from datasets import load_dataset

        try:
            records = [dict(record) for record in load_dataset(path, "main", split="train")]
        except (OSError, ValueError, ConnectionError) as error:
            why = not_found(path, error, "file", "data set")
            raise MissingFileError(f"corpus.rationales: nothing at {path!r}: {why}") from error
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
