"""MATH-500, competition problems (Lightman et al., arXiv 2305.20050).

JSONL `problem,solution,answer,subject,level,unique_id`.
The answers are LaTeX, as they stand in the boxes of the solutions.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows, tasks
from safethink.config import Math500Config


def load(config: Math500Config) -> Loaded:
    """The problems by subject."""
    return Loaded(
        tuple(
            tasks.asked(
                config,
                row,
                id=f"math500:{row.maybe('unique_id') or row.place.row}",
                reference=row.text("answer"),
                answer_kind="latex",
                parts={"question": row.text("problem")},
                category=row.text("subject"),
            )
            for row in rows.read(config, "problem", "answer", "subject")
        )
    )
