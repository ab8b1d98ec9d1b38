"""Prompts of one's own: one JSON object per line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, cast

from pydantic import Field, ValidationError, field_validator, model_validator

from safethink.benchmarks import layouts, rows
from safethink.benchmarks.text_files import Place, json_lines
from safethink.config import JsonlBenchmarkConfig
from safethink.config.yaml_config import did_you_mean
from safethink.errors import ConfigError, MissingFileError
from safethink.frozen import Frozen
from safethink.prompts import Message, Prompt, PromptKind

_FORMATS: Final = {"csv": "a CSV", "tsv": "a TSV", "parquet": "Parquet", "json": "one JSON list"}


class Line(Frozen):
    """One line: `prompt` or `messages`, and what else is known."""

    prompt: str | None = None
    """A single user turn."""
    messages: tuple[Message, ...] | None = Field(default=None, min_length=1)
    """A conversation, ending with the user."""
    id: str | None = None
    """Its identity in records and seeds, in text or a number; the line number where there is none."""
    split: str | None = None
    """Part of the data that it belongs to."""
    group: str | None = None
    """Lines of one group succeed and fail together; intervals are drawn over groups."""
    category: str | None = None
    """Topic that rates are reported by; nothing is drawn over it."""
    label: PromptKind | None = None
    """The prompt's kind, where it is not that of the benchmark."""
    reference: tuple[str, ...] = ()
    """The right answer of a harmless task, in text or a number; a list where several are right."""
    prefill: str = ""
    """Text that already stands in the thinking when the reasoner starts."""

    @field_validator("id", "group", "category", mode="before")
    @classmethod
    def _numbers_are_names(cls, given: object) -> object:
        return str(given) if isinstance(given, int) and not isinstance(given, bool) else given

    @field_validator("reference", mode="before")
    @classmethod
    def _one_or_several(cls, given: object) -> object:
        if given is None:
            return ()
        return [_written(answer) for answer in cast("Sequence[object]", given if isinstance(given, list) else [given])]

    @model_validator(mode="after")
    def _asks_something(self) -> Line:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        if self.messages is not None and self.messages[-1].role != "user":
            raise ValueError(f"the conversation ends with the {self.messages[-1].role}, not with the user")
        text = self.prompt if self.messages is None else self.messages[-1].content
        if not (text or "").strip():
            raise ValueError("the prompt is empty")
        return self

    def to_prompt(self, fallback_id: str, fallback_label: PromptKind) -> Prompt:
        """The prompt this line describes."""
        return Prompt(
            id=self.id or fallback_id,
            messages=self.messages or (Message(role="user", content=self.prompt or ""),),
            kind=self.label or fallback_label,
            references=self.reference,
            clusters={"group": self.group} if self.group is not None else {},
            prefill=self.prefill,
            category=self.category,
        )


class NamedRow(NamedTuple):
    """A prompt, and the split that its line names; None for none."""

    line: int
    split: str | None
    prompt: Prompt


def read(config: JsonlBenchmarkConfig) -> Iterator[NamedRow]:
    """Read the prompts of a file, of every split, in order.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: a line that is no prompt; it is named.
    """
    path = Path(config.path)
    for place, line in _lines(path, config.encoding):
        assert place.line is not None, "each row is a line"
        yield NamedRow(place.line, line.split, line.to_prompt(f"{path.stem}:{place.line}", config.prompts))


def load(config: JsonlBenchmarkConfig) -> tuple[Prompt, ...]:
    """Read the prompts of a file, those of the wanted split where one is named.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: a line that is no prompt (it is named), an id that stands twice, or nothing left to run.
    """
    path = Path(config.path)
    prompts: dict[str, Prompt] = {}
    for number, split, prompt in read(config):
        if config.split is not None and split != config.split:
            continue
        if prompt.id in prompts:
            raise ConfigError(f"{path}:{number}: the id {prompt.id!r} stands twice")
        prompts[prompt.id] = prompt
    if not prompts:
        wanted = f" of the split {config.split!r}" if config.split is not None else ""
        raise ConfigError(f"{path}: no prompts{wanted}")
    return tuple(prompts.values())


def _lines(path: Path, encoding: str) -> Iterator[tuple[Place, Line]]:
    refuse_other_formats(path, encoding)
    for place, values in json_lines(path, encoding):
        try:
            yield place, Line.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{path}:{place.line}: {_mistake(error, path, place, values)}") from error


def _mistake(error: ValidationError, path: Path, place: Place, values: Mapping[str, object]) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        close = did_you_mean(where, Line.model_fields)
        message = f"unknown key; a line may have {', '.join(Line.model_fields)}{close}"
        if place.row == 1 and not close:
            message += f"; {layouts.hint(str(path), list(values))}"
    return f"{where + ': ' if where else ''}{message}"


def refuse_other_formats(path: Path, encoding: str = "utf-8") -> None:
    """Say what reads a file that is no JSONL.

    Raises:
        MissingFileError: it is not there.
        ConfigError: it is a table, or one JSON value; says which benchmark it looks like, and the YAML that reads it.
    """
    if path.is_dir():
        raise MissingFileError(f"{path}: a folder, not a JSONL file")
    found = rows.other_format(path, encoding)
    if found is not None:
        hint = layouts.hint(str(path), found.columns, encoding, found.comment)
        raise ConfigError(f"{path}: {_FORMATS[found.format]}, not JSONL; {hint}")


def _written(answer: object) -> object:
    if isinstance(answer, bool):
        return str(answer).lower()
    return str(answer) if isinstance(answer, int | float) else answer
