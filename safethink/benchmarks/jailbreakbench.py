"""JBB-Behaviors (Chao et al., arXiv 2404.01318): CSV `Index,Goal,Target,Behavior,Category,Source`.

Harmful and benign behaviours have files, or splits of the hub, of their own.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.config import JailbreakBenchConfig


def load(config: JailbreakBenchConfig) -> Loaded:
    """The goals; benign ones are borderline, for they share their topics with the harmful.

    Raises:
        ConfigError: neither `split` nor the file's name says which half it is.
    """
    found = rows.read(config, "Index", "Goal", "Behavior", "Category")
    half = rows.told_by_name(config, "split", ("benign", "harmful"))
    return Loaded(
        tuple(
            row.prompt(
                id=f"jailbreakbench:{half}:{row.text('Index')}",
                text=row.text("Goal"),
                kind="harmful" if half == "harmful" else "borderline",
                category=row.text("Category"),
            )
            for row in found
        )
    )
