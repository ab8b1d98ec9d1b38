"""XSTest (Röttger et al., arXiv 2308.01263): CSV `id,prompt,type,label,focus,note`.

A file of before there was a label has the types of unsafe prompts begin with `contrast_`.
"""

from __future__ import annotations

from typing import Final

from safethink.benchmarks import Loaded, rows
from safethink.benchmarks.rows import Row
from safethink.config import XSTestConfig
from safethink.prompts import PromptKind

KINDS: Final[dict[str, PromptKind]] = {"safe": "borderline", "unsafe": "harmful"}


def load(config: XSTestConfig) -> Loaded:
    """The prompts of the wanted labels, by type."""
    wanted = {KINDS[label] for label in config.labels}
    found: list[tuple[Row, PromptKind]] = [
        (row, _kind(row)) for row in rows.read(config, "id", "prompt", "type", "focus")
    ]
    return Loaded(
        tuple(
            row.prompt(id=f"xstest:{row.text('id')}", text=row.text("prompt"), kind=kind, category=row.text("type"))
            for row, kind in found
            if kind in wanted
        )
    )


def _kind(row: Row) -> PromptKind:
    if "label" in row.values:
        return row.one_of("label", KINDS)
    return "harmful" if row.text("type").startswith("contrast_") else "borderline"
