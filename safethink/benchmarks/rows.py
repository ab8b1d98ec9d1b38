"""Rows of a published file, wherever it lies, and prompts made of them.

Text files are parsed by `text_files`; Parquet and the hub are read by `datasets`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from safethink.benchmarks import datasets_library, layouts
from safethink.benchmarks.text_files import Place, Placed, csv_rows, is_json_list, json_rows, read_text
from safethink.config import PublishedSection
from safethink.errors import ConfigError, MissingFileError
from safethink.prompts import AnswerKind, Message, Prompt, PromptKind, is_unicode

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        place: where it stands; errors begin with it.
        values: by column, as the file holds them.
    """

    place: Place
    values: Mapping[str, object]

    def text(self, *columns: str) -> str:
        """The text of the first of `columns` that the file has; numbers are written out, 7 as "7".

        Raises:
            ConfigError: it has none of them, or the cell holds neither text nor a number.
        """
        found = self.maybe(*columns)
        if found is None:
            raise ConfigError(f"{self.place}: no value in the column {columns[0]!r}")
        return found

    def maybe(self, *columns: str) -> str | None:
        """As `text`; None where the columns or the value are missing.

        Raises:
            ConfigError: the cell holds neither text nor a number.
        """
        column = next((each for each in columns if each in self.values), None)
        return None if column is None else self._as_text(column, self.values[column])

    def texts(self, *columns: str) -> tuple[str, ...]:
        """The texts of a cell that holds one or a list of them; empty ones are none.

        Raises:
            ConfigError: it holds something else.
        """
        column = next((each for each in columns if each in self.values), None)
        if column is None:
            return ()
        value = self.values[column]
        held = cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)
        return tuple(text for each in held if (text := self._as_text(column, each)))

    def one_of(self, column: str, meanings: Mapping[str, PromptKind]) -> PromptKind:
        """The kind that a label stands for.

        Raises:
            ConfigError: it stands for none.
        """
        label = self.text(column)
        if label not in meanings:
            raise ConfigError(f"{self.place}: {column} {label!r} is not one of {', '.join(meanings)}")
        return meanings[label]

    def prompt(
        self,
        id: str,
        text: str,
        kind: PromptKind,
        category: str | None = None,
        references: Sequence[str] = (),
        clusters: Mapping[str, str] | None = None,
        system: str | None = None,
        answer_kind: AnswerKind | None = None,
        choices: Sequence[str] = (),
    ) -> Prompt:
        """The prompt that this row describes: a single user turn, behind a system turn where there is one.

        Raises:
            ConfigError: the text is empty or cannot be encoded.
        """
        if not text.strip():
            raise ConfigError(f"{self.place}: the prompt is empty")
        if not is_unicode(text):
            raise ConfigError(f"{self.place}: the prompt holds half a surrogate pair, which no tokenizer can read")
        turns = (Message(role="user", content=text),)
        return Prompt(
            id=id,
            messages=turns if system is None else (Message(role="system", content=system), *turns),
            kind=kind,
            category=category or None,
            references=tuple(references),
            clusters=dict(clusters or {}),
            answer_kind=answer_kind,
            choices=tuple(choices),
        )

    def _as_text(self, column: str, value: object) -> str | None:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str | int | float):
            return str(value)
        raise ConfigError(f"{self.place}: {column} holds {type(value).__name__}, expected a text or a number")


@dataclass(frozen=True, slots=True)
class FileFormat:
    """Details of a format that the file's name does not say.

    Attributes:
        format: how it is read; None by its name.
        delimiter: between the cells of a CSV; None for what its format has.
        comment: lines of a CSV that begin so before the header are passed over; empty for none.
    """

    format: layouts.Format | None = None
    delimiter: str | None = None
    comment: str = ""


AS_NAMED: Final = FileFormat()


def read(config: PublishedSection, *columns: str | tuple[str, ...], file: FileFormat = AS_NAMED) -> list[Row]:
    """All rows of a benchmark's file.

    Args:
        config: where it is.
        columns: columns that it must have; of several in a tuple, one.
        file: what its name does not say.

    Raises:
        MissingFileError: a file that is not there.
        ConfigError: a file that cannot be read as rows, that is empty, or that has other columns: says which benchmark
            it looks like, and what reads it.
        HubError: a dataset of the hub that cannot be had.
    """
    rows = [Row(place, values) for place, values in _placed(config, file)]
    if not rows:
        raise ConfigError(f"{config.path}: no rows")
    held = rows[0].values
    _refuse_other_layout(config, list(held))
    for wanted in columns:
        names = (wanted,) if isinstance(wanted, str) else wanted
        if not any(name in held for name in names):
            missing = " or ".join(map(repr, names))
            raise ConfigError(
                f"{config.path}: no column {missing}; {layouts.hint(config.path, list(held), config.encoding)}"
            )
    return rows


def _refuse_other_layout(config: PublishedSection, columns: list[str]) -> None:
    """Another benchmark may have columns of the same names, with another meaning.

    Raises:
        ConfigError: the columns are surely those of another benchmark, and not those of this one.
    """
    others = layouts.of_columns(columns, at_least=3)
    if config.COLUMNS and others and type(config) not in others:
        hint = layouts.hint(config.path, columns, config.encoding)
        raise ConfigError(f"{config.path}: not the layout of {config.TITLE}; {hint}")


def _placed(config: PublishedSection, file: FileFormat) -> Iterator[Placed]:
    path = Path(config.path).expanduser()
    if not path.exists() and _HUB_ID.fullmatch(config.path) and layouts.format_of(path) is None:
        return _numbered(config.path, datasets_library.of_hub(config))
    return local_rows(path, config.encoding, file)


def local_rows(path: Path, encoding: str = "utf-8", file: FileFormat = AS_NAMED) -> Iterator[Placed]:
    """The rows of a file on this machine, read as its name ends: .csv, .tsv, .json, .jsonl, .ndjson or .parquet.

    Args:
        path: the file; text may be packed, with a further .gz.
        encoding: of a text file.
        file: what its name does not say.

    Raises:
        MissingFileError: it is not there.
        ConfigError: it cannot be read as rows.
    """
    if not path.exists():
        raise MissingFileError(f"{path}: No such file or directory")
    match file.format or layouts.format_of(path):
        case "csv":
            return csv_rows(path, encoding, file.delimiter or ",", file.comment)
        case "tsv":
            return csv_rows(path, encoding, file.delimiter or "\t", file.comment)
        case "json":
            return json_rows(path, encoding)
        case "parquet":
            return _numbered(str(path), datasets_library.of_parquet(path))
        case None if path.is_dir():
            raise ConfigError(f"{path} is a folder; give one of its files")
        case None:
            raise ConfigError(f"{path}: unknown kind of file; its name ends in one of {', '.join(layouts.SUFFIXES)}")


@dataclass(frozen=True, slots=True)
class OtherFormat:
    """A file that is no JSONL.

    Attributes:
        format: what it is.
        columns: of its first row.
        comment: mark of the lines before its header; empty where there are none.
    """

    format: layouts.Format
    columns: list[str]
    comment: str = ""


def other_format(path: Path, encoding: str = "utf-8") -> OtherFormat | None:
    """Format and columns of a file that is no JSONL, told by its name and its beginning; None where it may be JSONL.

    Raises:
        MissingFileError: it cannot be read.
        ConfigError: it is of another format, but damaged.
    """
    format = layouts.format_of(path)
    if format == "parquet":
        return OtherFormat(format, _columns(local_rows(path)))
    text = read_text(path, encoding)
    if is_json_list(text):
        return OtherFormat("json", _columns(json_rows(path, encoding)))
    if format in ("csv", "tsv") and not text.lstrip().startswith("{"):
        comment = "#" if text.startswith("#") else ""
        return OtherFormat(format, _columns(local_rows(path, encoding, FileFormat(comment=comment))), comment)
    return None


def _columns(found: Iterator[Placed]) -> list[str]:
    _, values = next(found, (None, cast("Mapping[str, object]", {})))
    return list(values)


def told_by_name(config: PublishedSection, key: str, parts: Sequence[str]) -> str:
    """The part of a benchmark that a file holds, where no column says it: by a setting, else by the file's name.

    Args:
        config: the benchmark.
        key: the setting.
        parts: words for the parts, one of which either must hold.

    Raises:
        ConfigError: neither does, or they contradict each other.
    """
    setting, name = (str(said or "").casefold() for said in (getattr(config, key), Path(config.path).name))
    by_setting, by_name = ([part for part in parts if part in said] for said in (setting, name))
    found = by_setting if setting else by_name
    if len(found) != 1:
        raise ConfigError(f"{config.path}: no column says which part it is; add `{key}:`, for {' or '.join(parts)}")
    if len(by_name) == 1 and by_name != found:
        raise ConfigError(f"{config.path}: `{key}: {setting}`, but the file is named as its {by_name[0]} part")
    return found[0]


def _numbered(source: str, found: Iterable[Mapping[str, object]]) -> Iterator[Placed]:
    for row, values in enumerate(found, start=1):
        yield Place(source, row), values
