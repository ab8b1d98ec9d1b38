"""ARC, science questions with options (Clark et al., arXiv 1803.05457).

JSONL with `question.stem` and `question.choices` as AI2 ships it; on the hub `choices` holds the lists `text` and
`label`. Labels are letters or numbers. In LLM-Adapters' copy options are "answer1" to "answer5".
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import BaseModel, ValidationError

from safethink.benchmarks import Loaded, rows, tasks
from safethink.benchmarks.rows import Row
from safethink.config import ArcConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt

_OPTION: Final = re.compile(r"(?:^|\s)Answer(\d): ?")


def load(config: ArcConfig) -> Loaded:
    """The questions, their options listed by letter; those of LLM-Adapters' copy as they are."""
    found = rows.read(config, ("question", "instruction"), ("answerKey", "answer"))
    return Loaded(tuple(_copied(row) if tasks.is_adapters_copy(row) else _prompt(config, row) for row in found))


def _prompt(config: ArcConfig, row: Row) -> Prompt:
    question, key = _question(row), row.text("answerKey")
    labels, options = question.labels(), question.texts()
    if key not in labels:
        raise ConfigError(f"{row.place}: answerKey {key!r} is not one of the labels {', '.join(labels)}")
    return tasks.asked(
        config,
        row,
        id=f"arc:{row.maybe('id') or row.place.row}",
        reference=tasks.lettered(row, options, labels.index(key)),
        answer_kind="option",
        parts={"question": question.stem, "options": tasks.listed(options)},
        choices=options,
    )


class _Options(BaseModel):
    """Options as columns."""

    text: list[str]
    label: list[str]


class _Option(BaseModel):
    """One option of several."""

    text: str
    label: str


class _Question(BaseModel):
    """A question with its options, in either layout."""

    stem: str
    choices: _Options | list[_Option]

    def labels(self) -> list[str]:
        return self.choices.label if isinstance(self.choices, _Options) else [each.label for each in self.choices]

    def texts(self) -> list[str]:
        return self.choices.text if isinstance(self.choices, _Options) else [each.text for each in self.choices]


def _question(row: Row) -> _Question:
    asked = row.values["question"]
    held = {"stem": asked, "choices": row.values.get("choices")} if isinstance(asked, str) else asked
    try:
        return _Question.model_validate(held)
    except ValidationError as error:
        raise ConfigError(f"{row.place}: expected a question and `choices` with `text` and `label`") from error


def _copied(row: Row) -> Prompt:
    """A row of LLM-Adapters, whose options are told from the text."""
    text, right = tasks.instruction(row), row.text("answer")
    _, *parts = _OPTION.split(text.rpartition("\n\nAnswer format:")[0])
    labels, options = [f"answer{digit}" for digit in parts[::2]], [option.strip() for option in parts[1::2]]
    if right not in labels:
        raise ConfigError(
            f"{row.place}: the answer {right!r} is not one of the options {', '.join(labels) or '(none)'}"
        )
    return row.prompt(
        f"arc:{row.place.row}", text, "harmless", references=(right,), answer_kind="option", choices=options
    )
