"""JailBreakV-28K and RedTeam-2K (Luo et al., arXiv 2404.03027), their text columns.

CSV `id,jailbreak_query,redteam_query,format,policy,image_path,from,selected_mini,transfer_from_llm`, and
`id,question,policy,from`.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.benchmarks.rows import Row
from safethink.config import JailbreakVConfig
from safethink.prompts import Prompt, words_hash


def load(config: JailbreakVConfig) -> Loaded:
    """The attacks of the wanted formats, by policy; those around one request share its group."""
    found = rows.read(config, (config.column, "question"), "policy")
    if "question" in found[0].values:
        return Loaded(tuple(_bare(row, "question") for row in found))
    kept = [row for row in found if row.text("format") in config.formats]
    left_out = len(found) - len(kept)
    return Loaded(
        tuple(_attack(row) if config.column == "jailbreak_query" else _bare(row, config.column) for row in kept),
        (f"{left_out} rows of other formats left out: their text asks about a picture",) if left_out else (),
    )


def _attack(row: Row) -> Prompt:
    return row.prompt(
        id=f"jailbreakv:{row.text('id')}",
        text=row.text("jailbreak_query"),
        kind="jailbreak",
        category=_policy(row),
        clusters={"group": words_hash(row.text("redteam_query"))},
    )


def _bare(row: Row, column: str) -> Prompt:
    text = row.text(column)
    return row.prompt(
        id=f"jailbreakv:{column}:{row.text('id')}",
        text=text,
        kind="harmful",
        category=_policy(row),
        clusters={"group": words_hash(text)},
    )


def _policy(row: Row) -> str:
    """The policy as the 28K spells it; the 2K has a shorter name for one."""
    policy = row.text("policy")
    return "Child Abuse Content" if policy == "Child Abuse" else policy
