"""CSV, JSON and JSONL files as rows of plain values; whatever is wrong is named by file, line and row.

`datasets` reads such files too, but turns "007" into 7 and "NA" into nothing, fills short rows, drops the first of two
equal keys, and names no row. So text is parsed here, cell by cell as it is written.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from safethink.errors import ConfigError, MissingFileError

ENCODINGS: Final = ("cp1252", "mac_roman")
"""Encodings of old spreadsheets, which are suggested where a file is not UTF-8."""
_QUOTES: Final = "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT DOUBLE QUOTATION MARK}\
\N{RIGHT DOUBLE QUOTATION MARK}\N{EN DASH}\N{EM DASH}\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place in a file.

    Attributes:
        source: the file, or the dataset of the hub.
        row: its number, counted from 1 behind the header.
        line: the line on which it begins; None where rows are not lines.
    """

    source: str
    row: int
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}" if self.line is None else f"{self.source}:{self.line} (row {self.row})"


Placed = tuple[Place, Mapping[str, object]]
"""A row's place, and its values by column."""


class _Repeated(dict[str, object]):
    """A JSON object in which a key stands twice; JSON says nothing of which value holds."""

    key: str = ""


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, unpacked where its name ends in .gz; a byte order mark is no part of it.

    Raises:
        MissingFileError: the file cannot be read.
        ConfigError: it is not in that encoding, or not packed; the line is named.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8-sig" if codec_is_utf8(encoding) else encoding)
    except UnicodeError as error:
        line = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        raise ConfigError(f"{path}:{line}: not {encoding.upper()} text; {_encoding_hint(data)}") from error
    return text.removeprefix("\ufeff")


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz.

    Raises:
        MissingFileError: the file cannot be read.
        ConfigError: it is not packed.
    """
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: damaged or no gzip file") from error
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror}") from error


def codec_is_utf8(encoding: str) -> bool:
    """Whether an encoding is UTF-8, however it is spelt."""
    return encoding.casefold().replace("-", "").replace("_", "") == "utf8"


def csv_rows(path: Path, encoding: str = "utf-8", delimiter: str = ",", comment: str = "") -> Iterator[Placed]:
    """The rows of a CSV file by its header, every cell as it is written; blank lines are none.

    Args:
        path: the file.
        encoding: of its text.
        delimiter: between cells.
        comment: lines that begin so before the header are passed over; empty for none.

    Raises:
        MissingFileError: the file cannot be read.
        ConfigError: it is no CSV, a column stands twice, or a row has more or fewer cells than the header.
    """
    text = read_text(path, encoding)
    skipped = 0
    while comment and text.startswith(comment):
        _, _, text = text.partition("\n")
        skipped += 1
    with _any_field_size():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header: list[str] | None = None
        row, line = 0, skipped + 1
        try:
            for cells in reader:
                if cells and header is None:
                    header = _checked_header(path, cells)
                elif cells and header is not None:
                    row += 1
                    place = Place(str(path), row, line)
                    if len(cells) != len(header):
                        raise ConfigError(f"{place}: {len(cells)} cells, but the header has {len(header)}")
                    yield place, dict(zip(header, cells, strict=True))
                line = skipped + reader.line_num + 1
        except csv.Error as error:
            raise ConfigError(f"{path}:{line} (row {row + 1}): no CSV: {error}") from error


def _checked_header(path: Path, cells: list[str]) -> list[str]:
    if cells[0].startswith("#"):
        raise ConfigError(f"{path}: begins with a comment: add `comment: '#'`, which `kind: table` has")
    twice = next((name for name in cells if cells.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: the column {twice!r} stands twice")
    return cells


@contextmanager
def _any_field_size() -> Generator[None, None, None]:
    """Cells of any length; the limit of `csv` is for the whole process, and is put back."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def json_rows(path: Path, encoding: str = "utf-8") -> Iterator[Placed]:
    """The objects of a JSON file: one per line, a list, a list under a single key, or objects by their ids.

    Raises:
        MissingFileError: the file cannot be read.
        ConfigError: it is no JSON, holds something else than objects, or a key stands twice; the row is named.
    """
    text = read_text(path, encoding)
    whole = _whole(text)
    return _objects(_lines(path, text) if whole is None else _members(path, whole))


def json_lines(path: Path, encoding: str = "utf-8") -> Iterator[Placed]:
    """The objects of a JSONL file, one per line; blank lines are none.

    Raises:
        MissingFileError: the file cannot be read.
        ConfigError: a line is no JSON or no object, or a key stands twice in it; the line is named.
    """
    return _objects(_lines(path, read_text(path, encoding)))


def is_json_list(text: str) -> bool:
    """Whether a text is one JSON list, rather than an object per line."""
    return isinstance(_whole(text), list)


def _objects(found: Iterator[tuple[Place, object]]) -> Iterator[Placed]:
    for place, value in found:
        if not isinstance(value, dict):
            raise ConfigError(f"{place}: expected an object with keys, not {_shown(value)}")
        if (twice := _repeated_key(cast("object", value))) is not None:
            raise ConfigError(f"{place}: the key {twice!r} stands twice")
        yield place, cast("dict[str, object]", value)


def _whole(text: str) -> object | None:
    """A file that is one list, or one object over several lines; None where lines are to be read one by one."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        value = _parse(text)
    except (ValueError, RecursionError):
        return None
    return None if isinstance(value, dict) and "\n" not in text.strip() else cast("object", value)


def _members(path: Path, whole: object) -> Iterator[tuple[Place, object]]:
    if isinstance(whole, dict):
        keyed = cast("dict[str, object]", whole)
        if isinstance(whole, _Repeated):
            raise ConfigError(f"{path}: the key {whole.key!r} stands twice")
        if len(keyed) == 1 and isinstance(inner := next(iter(keyed.values())), list):
            whole = cast("object", inner)
        elif all(isinstance(value, dict) for value in keyed.values()):
            whole = [{"id": key, **cast("dict[str, object]", value)} for key, value in keyed.items()]
        else:
            whole = [keyed]
    for row, value in enumerate(cast("list[object]", whole), start=1):
        yield Place(str(path), row), value


def _lines(path: Path, text: str) -> Iterator[tuple[Place, object]]:
    row = 0
    for line, raw in enumerate(text.split("\n"), start=1):
        if not raw.strip():
            continue
        row += 1
        place = Place(str(path), row, line)
        try:
            yield place, _parse(raw)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{place}: invalid JSON: {error.msg} in column {error.colno}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{place}: invalid JSON: {error}") from error


def _parse(text: str) -> object:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    made = dict[str, object](pairs)
    if len(made) == len(pairs):
        return made
    keys = [key for key, _ in pairs]
    repeated = _Repeated(made)
    repeated.key = next(key for key in keys if keys.count(key) > 1)
    return repeated


def _repeated_key(value: object) -> str | None:
    """A key that stands twice in one object, however deep."""
    if isinstance(value, _Repeated):
        return value.key
    inner: list[object] = []
    if isinstance(value, dict):
        inner = list(cast("dict[str, object]", value).values())
    elif isinstance(value, list):
        inner = cast("list[object]", value)
    return next((key for key in map(_repeated_key, inner) if key is not None), None)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _encoding_hint(data: bytes) -> str:
    """The encoding that a file is likeliest to have: one that every byte fits, and that makes most of them quotes."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "it looks like UTF-16: add `encoding: utf-16`"

    def fit(encoding: str) -> tuple[bool, int]:
        text = data.decode(encoding, errors="replace")
        return "\N{REPLACEMENT CHARACTER}" not in text, sum(text.count(mark) for mark in _QUOTES)

    return f"it looks like {(best := max(ENCODINGS, key=fit))}: add `encoding: {best}`"
