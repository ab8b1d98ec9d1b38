"""SafeBench of FigStep (Gong et al., arXiv 2311.05608), the requests behind its pictures.

CSV `dataset,category_id,task_id,category_name,question,instruction`.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows
from safethink.config import FigStepConfig


def load(config: FigStepConfig) -> Loaded:
    """The requests as text; ids are those in the names of their pictures."""
    return Loaded(
        tuple(
            row.prompt(
                id=f"figstep:{row.text('dataset')}_{row.text('category_id')}_{row.text('task_id')}",
                text=row.text(config.column),
                kind="harmful",
                category=row.text("category_name"),
            )
            for row in rows.read(config, "dataset", "category_id", "task_id", "category_name", config.column)
        )
    )
