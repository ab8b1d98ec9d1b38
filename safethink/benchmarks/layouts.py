"""The layouts of published files: which benchmark a file looks like, and the YAML that reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from safethink.config import BenchmarkConfig, PublishedSection
from safethink.config.yaml_config import members, tag

Format = Literal["csv", "tsv", "json", "parquet"]

SUFFIXES: Final[dict[str, Format]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
"""Format of a file by how its name ends, a further .gz aside."""

_NAMES: Final[tuple[str, ...]] = (
    "prompt",
    "question",
    "goal",
    "objective",
    "behavior",
    "instruction",
    "query",
    "text",
    "problem",
    "sentence",
)
"""Names that a column with prompts has, the likeliest first."""


def format_of(path: Path) -> Format | None:
    """Format of a file by its name; None where it says nothing."""
    return SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix.lower())


def of_columns(columns: Iterable[str], at_least: int = 1) -> list[type[PublishedSection]]:
    """The benchmarks whose layout these columns are, those that explain most of them, and `at_least` so many."""
    held = set(columns)
    fits = {
        section: max((len(form) for form in section.COLUMNS if form <= held), default=0) for section in _published()
    }
    best = max(fits.values(), default=0)
    return [section for section, count in fits.items() if count == best >= at_least]


def hint(path: str, columns: list[str], encoding: str = "utf-8", comment: str = "") -> str:
    """A file's columns, the benchmark that they are the layout of, and the YAML that reads it.

    Args:
        path: the file.
        columns: what it has.
        encoding: of its text.
        comment: mark of the lines before its header; empty where there are none.
    """
    shown = ", ".join(map(repr, columns[:12])) + (", …" if len(columns) > 12 else "")
    known = of_columns(columns)
    where = f"path: {path}" + ("" if encoding == "utf-8" else f", encoding: {encoding}")
    if known and not comment:
        whose = " or ".join(section.TITLE for section in known)
        reads = " or ".join(f"`{{kind: {tag(section)}, {where}}}`" for section in known)
        return f"it has {shown}, the layout of {whose}: {reads} reads it"
    marked = f", comment: '{comment}'" if comment else ""
    fields = f"{{prompt: {_prompt_column(columns)}}}"
    return f"it has {shown}: `{{kind: table, {where}{marked}, prompts: harmful, fields: {fields}}}` reads it"


def _prompt_column(columns: list[str]) -> str:
    """The column that holds prompts, as far as names tell."""
    lower = {column.casefold(): column for column in reversed(columns)}
    likely = next((lower[name] for name in _NAMES if name in lower), None)
    return likely or next((column for column in columns if column), "COLUMN")


def _published() -> list[type[PublishedSection]]:
    return [section for section in members(BenchmarkConfig) if issubclass(section, PublishedSection)]
