"""OR-Bench (Cui et al., arXiv 2405.20947): CSV `prompt,category`; three parts, in files of their own."""

from __future__ import annotations

from typing import Final

from safethink.benchmarks import Loaded, rows
from safethink.config import OrBenchConfig
from safethink.prompts import PromptKind

KINDS: Final[dict[str, PromptKind]] = {"80k": "borderline", "hard": "borderline", "toxic": "harmful"}


def load(config: OrBenchConfig) -> Loaded:
    """The prompts: borderline in the large and in the hard part, harmful in the toxic one.

    Raises:
        ConfigError: neither `subset` nor the file's name says which part it is.
    """
    found = rows.read(config, "prompt", "category")
    part = rows.told_by_name(config, "subset", tuple(KINDS))
    return Loaded(
        tuple(
            row.prompt(
                id=f"or_bench:{part}:{row.place.row}",
                text=row.text("prompt"),
                kind=KINDS[part],
                category=row.text("category"),
            )
            for row in found
        )
    )
