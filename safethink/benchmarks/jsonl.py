"""Prompts of one's own: one JSON object per line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, ValidationError, model_validator

from safethink.config import JsonlBenchmarkConfig
from safethink.errors import ConfigError, MissingFileError
from safethink.frozen import Frozen
from safethink.prompts import Message, Prompt

Label: TypeAlias = Literal["jailbreak", "harmful", "harmless", "borderline"]
"""The kind of a prompt."""


class Line(Frozen):
    """One line: `prompt` or `messages`, and what else is known."""

    prompt: str | None = None
    """A single user turn."""
    messages: tuple[Message, ...] | None = Field(default=None, min_length=1)
    """A conversation, ending with the user."""
    id: str | None = None
    """Its identity in records and seeds; the line number where there is none."""
    split: str | None = None
    """Part of the data that it belongs to."""
    group: str | None = None
    """Lines of one group succeed and fail together; intervals are drawn over groups."""
    label: Label | None = None
    """The prompt's kind, where it is not that of the benchmark."""
    reference: str | None = None
    """The right answer of a harmless task."""
    prefill: str = ""
    """Text that already stands in the thinking when the reasoner starts."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Line:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self

    def to_prompt(self, fallback_id: str, fallback_label: Label) -> Prompt:
        """The prompt this line describes."""
        return Prompt(
            id=self.id or fallback_id,
            messages=self.messages or (Message(role="user", content=self.prompt or ""),),
            kind=self.label or fallback_label,
            reference=self.reference,
            clusters={"group": self.group} if self.group is not None else {},
            prefill=self.prefill,
        )


def load(config: JsonlBenchmarkConfig) -> tuple[Prompt, ...]:
    """Read the prompts of a file, those of the wanted split where one is named.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: a line that is no prompt (it is named), an id that stands twice, or nothing left to run.
    """
    path = Path(config.path)
    prompts: dict[str, Prompt] = {}
    for number, line in _lines(path):
        if config.split is not None and line.split != config.split:
            continue
        prompt = line.to_prompt(f"{path.stem}:{number}", config.prompts)
        if prompt.id in prompts:
            raise ConfigError(f"{path}:{number}: the id {prompt.id!r} stands twice")
        prompts[prompt.id] = prompt
    if not prompts:
        wanted = f" of the split {config.split!r}" if config.split is not None else ""
        raise ConfigError(f"{path}: no prompts{wanted}")
    return tuple(prompts.values())


def _lines(path: Path) -> Iterator[tuple[int, Line]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text") from error
    for number, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        try:
            yield number, Line.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            is_unknown = first["type"] == "extra_forbidden" and len(first["loc"]) == 1
            message = f"unknown key; a line may have {', '.join(Line.model_fields)}" if is_unknown else first["msg"]
            raise ConfigError(f"{path}:{number}: {where + ': ' if where else ''}{message}") from error
