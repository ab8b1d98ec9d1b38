"""WildJailbreak (Jiang et al., arXiv 2406.18510).

TSV `vanilla,adversarial,completion,data_type` to train on, `adversarial,label,data_type` to evaluate on.
"""

from __future__ import annotations

from typing import Final

from safethink.benchmarks import Loaded, rows
from safethink.benchmarks.rows import Row
from safethink.config import WildJailbreakConfig
from safethink.prompts import Prompt, PromptKind, words_hash

KINDS: Final[dict[str, PromptKind]] = {
    "vanilla_harmful": "harmful",
    "vanilla_benign": "borderline",
    "adversarial_harmful": "jailbreak",
    "adversarial_benign": "borderline",
}


def load(config: WildJailbreakConfig) -> Loaded:
    """The requests; attacks around one bare request share its group."""
    found = rows.read(config, "adversarial", "data_type")
    return Loaded(tuple(_prompt(row) for row in found))


def _prompt(row: Row) -> Prompt:
    type_of_row, bare = row.text("data_type"), row.maybe("vanilla")
    is_bare = type_of_row.startswith("vanilla")
    return row.prompt(
        id=f"wildjailbreak:{row.place.row}",
        text=row.text("vanilla" if is_bare else "adversarial"),
        kind=row.one_of("data_type", KINDS),
        category=type_of_row,
        clusters={"group": words_hash(bare)} if bare else {},
    )
