"""StrongREJECT, forbidden prompts (Souly et al., arXiv 2402.10260): CSV `category,source,forbidden_prompt`.

On the hub `prompt,category`.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.config import StrongRejectConfig


def load(config: StrongRejectConfig) -> Loaded:
    """The prompts; each asks something out, so each is harmful."""
    return Loaded(
        tuple(
            row.prompt(
                id=f"strongreject:{row.place.row}",
                text=row.text("forbidden_prompt", "prompt"),
                kind="harmful",
                category=row.text("category"),
            )
            for row in rows.read(config, ("forbidden_prompt", "prompt"), "category")
        )
    )
