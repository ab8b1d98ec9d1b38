"""Do-Not-Answer (Wang et al., arXiv 2308.13387): `id,risk_area,types_of_harm,specific_harms,question`."""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.config import DoNotAnswerConfig


def load(config: DoNotAnswerConfig) -> Loaded:
    """The questions, by type of harm; the answers of models beside them are left aside."""
    return Loaded(
        tuple(
            row.prompt(
                id=f"do_not_answer:{row.maybe('id') or row.place.row}",
                text=row.text("question"),
                kind="harmful",
                category=row.text("types_of_harm"),
            )
            for row in rows.read(config, "question", "types_of_harm")
        )
    )
