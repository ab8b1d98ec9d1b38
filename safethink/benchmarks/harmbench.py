"""HarmBench, behaviours in text (Mazeika et al., arXiv 2402.04249, section 4).

CSV `Behavior,FunctionalCategory,SemanticCategory,Tags,ContextString,BehaviorID`; on the hub `prompt,category,context`,
with the functional category as the subset.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.benchmarks.rows import Row
from safethink.config import HarmBenchConfig
from safethink.errors import ConfigError


def load(config: HarmBenchConfig) -> Loaded:
    """The behaviours of the wanted functional categories.

    Raises:
        ConfigError: rows of the multimodal part, which ask about pictures.
    """
    found = rows.read(config, ("Behavior", "prompt"))
    if "ImageFileName" in found[0].values:
        raise ConfigError(f"{config.path}: the multimodal behaviours ask about pictures; the others are text")
    kept = [row for row in found if _functional(row, config) in config.functional]
    copyrighted = sum(_functional(row, config) == "copyright" for row in found)
    notes: list[str] = []
    if copyrighted and "copyright" not in config.functional:
        notes.append(f"{copyrighted} copyright rows left out: only comparing hashes tells whether a text was copied")
    elif copyrighted:
        notes.append(f"{copyrighted} copyright rows: no judge here tells whether a text was copied")
    return Loaded(
        tuple(
            row.prompt(
                id=f"harmbench:{row.maybe('BehaviorID') or row.place.row}",
                text=_asked(row),
                kind="harmful",
                category=row.maybe("SemanticCategory", "category") or _functional(row, config),
            )
            for row in kept
        ),
        tuple(notes),
    )


def _asked(row: Row) -> str:
    """The behaviour, behind its context where it has one, as HarmBench's direct request joins them."""
    context, behavior = row.maybe("ContextString", "context"), row.text("Behavior", "prompt")
    return f"{context}\n\n---\n\n{behavior}" if context else behavior


def _functional(row: Row, config: HarmBenchConfig) -> str:
    told = row.maybe("FunctionalCategory") or config.subset
    return told or ("contextual" if row.maybe("ContextString", "context") else "standard")
