"""Prompts of tasks with a right answer: what every benchmark of them shares.

The copies of LLM-Adapters (arXiv 2304.01933) hold `instruction,input,output,answer`, whatever the benchmark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from safethink.benchmarks.rows import Row
from safethink.config import TaskSection
from safethink.errors import ConfigError
from safethink.prompts import AnswerKind, Prompt

LETTERS: Final = "ABCDEFGHIJ"
"""Labels of options, as they are listed."""
_NUMBER: Final = re.compile(r"[-+]?\$?(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?%?|[-+]?\$?\d[\d,]*\.?|\d+/\d+")


def is_adapters_copy(row: Row) -> bool:
    """Whether a row is one of LLM-Adapters' copies."""
    return "instruction" in row.values


def instruction(row: Row) -> str:
    """The question of a row of LLM-Adapters, its input behind it where there is any."""
    return f"{row.text('instruction').strip()}\n\n{row.maybe('input') or ''}".strip()


def number(row: Row, *columns: str) -> str:
    """A numeric answer as it is written, a single one in a list too.

    Raises:
        ConfigError: it is no number, or there are several.
    """
    found = row.texts(*columns)
    if len(found) != 1:
        raise ConfigError(f"{row.place}: {columns[0]} holds {len(found)} numbers, expected one")
    return checked(row, found[0])


def checked(row: Row, number: str) -> str:
    """A number as it is written.

    Raises:
        ConfigError: it is none.
    """
    if not _NUMBER.fullmatch(number.strip()):
        raise ConfigError(f"{row.place}: the answer {number.strip()[:40]!r} is no number")
    return number.strip()


def listed(options: Sequence[str]) -> str:
    """Options one below the other, each behind its letter."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def lettered(row: Row, options: Sequence[str], right: int) -> str:
    """The letter of the right option.

    Raises:
        ConfigError: there are more options than letters, fewer than two, or one is empty.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise ConfigError(f"{row.place}: {len(options)} options, expected 2 to {len(LETTERS)}")
    if not all(option.strip() for option in options):
        raise ConfigError(f"{row.place}: an option is empty")
    return LETTERS[right]


def asked(
    config: TaskSection,
    row: Row,
    id: str,
    reference: str,
    answer_kind: AnswerKind,
    parts: dict[str, str],
    category: str | None = None,
    choices: Sequence[str] = (),
) -> Prompt:
    """The prompt of a task: its parts in the template.

    Args:
        config: whose template it is.
        row: where the task stands.
        id: the prompt's identity.
        reference: the right answer.
        answer_kind: the form of the answer.
        parts: what the template may name.
        category: topic, where the benchmark has one.
        choices: texts of the options.

    Raises:
        ConfigError: the question is empty.
    """
    if not parts["question"].strip():
        raise ConfigError(f"{row.place}: the question is empty")
    text = config.template.format_map(parts).strip()
    return row.prompt(id, text, "harmless", category, (reference,), answer_kind=answer_kind, choices=choices)
