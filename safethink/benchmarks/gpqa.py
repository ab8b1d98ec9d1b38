"""GPQA, graduate-level questions with four options (Rein et al., arXiv 2311.12022).

CSV with `Question`, `Correct Answer` and `Incorrect Answer 1` to `3` among many columns. Its authors ask that no
question be published in plain text.
"""

from __future__ import annotations

from random import Random
from typing import Final

from safethink.benchmarks import Loaded, rows, tasks
from safethink.benchmarks.rows import Row
from safethink.config import GpqaConfig
from safethink.prompts import Prompt
from safethink.seeds import stable_seed

_OPTIONS: Final = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def load(config: GpqaConfig) -> Loaded:
    """The questions by domain, the options of each in an order of its own."""
    return Loaded(tuple(_prompt(config, row) for row in rows.read(config, "Question", *_OPTIONS)))


def _prompt(config: GpqaConfig, row: Row) -> Prompt:
    id = f"gpqa:{row.maybe('Record ID') or row.place.row}"
    order = list(_OPTIONS)
    Random(stable_seed("options", config.options_seed, id)).shuffle(order)
    options = [row.text(column).strip() for column in order]
    return tasks.asked(
        config,
        row,
        id=id,
        reference=tasks.lettered(row, options, order.index("Correct Answer")),
        answer_kind="option",
        parts={"question": row.text("Question").strip(), "options": tasks.listed(options)},
        category=row.maybe("High-level domain"),
        choices=options,
    )
