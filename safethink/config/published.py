"""Settings that all benchmarks read from a file share: its place, how it is read, which prompts are asked."""

from __future__ import annotations

import codecs
from pathlib import PurePath
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from safethink.config.section import Section


class FileSection(Section):
    """Settings of every benchmark that is read from a file."""

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"title", "half", "sample", "sample_seed", "wrappers", "encoding"})

    path: str
    """The file."""
    title: str | None = None
    """Name in records and tables; None for the benchmark's own."""
    half: Literal["first", "second"] | None = None
    """Half of the prompts that is asked, by a hash of their words: what a benchmark's `first` half teaches is fairly
    tested on its `second`. None takes all."""
    sample: int | None = Field(default=None, ge=1)
    """At most so many prompts, drawn evenly over kinds and categories; the file's order makes no difference. None takes
    all."""
    sample_seed: int = 0
    """Seeds that drawing."""
    wrappers: str | None = None
    """Jailbreak templates to put around every prompt: a folder of PyRIT's YAML files, or a CSV with `[INSERT PROMPT
    HERE]`. Each pair of prompt and wrapper is a prompt of its own; intervals are drawn over both."""
    encoding: str = "utf-8"
    """Of a text file, such as `mac_roman` or `cp1252`."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, given: str) -> str:
        try:
            codecs.lookup(given)
        except LookupError as error:
            raise ValueError("unknown encoding") from error
        return given

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return self.title or stem(self.path)


class PublishedSection(FileSection):
    """Settings of every benchmark in its authors' layout, on this machine or on the hub."""

    COLUMNS: ClassVar[tuple[frozenset[str], ...]] = ()
    """Columns by which its layout is told, in each of the forms that it is published in."""
    TITLE: ClassVar[str] = ""
    """Name that its authors gave it."""
    HUB_OPTIONS: ClassVar[dict[str, Any]] = {}
    """Arguments of `datasets.load_dataset` that its card on the hub asks for."""

    path: str
    """A CSV, TSV, JSON, JSONL or Parquet file (text also with .gz), or `OWNER/NAME` on the hub."""
    revision: str | None = None
    """Commit of the hub's dataset."""
    subset: str | None = None
    """Configuration of the hub's dataset, where it has several."""
    split: str | None = None
    """Split of the hub's dataset; None takes its only one."""

    @property
    def name(self) -> str:
        """The benchmark's name in records and tables."""
        return self.title or str(getattr(self, "kind", ""))

    @property
    def is_test(self) -> bool:
        """Whether nothing is learned on these prompts; an artifact that was learned on them says so."""
        return True


def stem(path: str) -> str:
    """Name of a file without what says its format."""
    name = PurePath(path).name.removesuffix(".gz")
    return PurePath(name).stem or path
