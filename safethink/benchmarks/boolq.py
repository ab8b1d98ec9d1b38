"""BoolQ, questions with yes or no for an answer (Clark et al., arXiv 1905.10044).

JSONL `question,title,answer,passage`, the answer true or false.
In SuperGLUE's copy the answer is `label`, 0 or 1.
"""

from __future__ import annotations

from typing import Final

from safethink.benchmarks import Loaded, rows, tasks
from safethink.benchmarks.rows import Row
from safethink.config import BoolQConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt

_TRUTH: Final = {"true": "true", "false": "false", "1": "true", "0": "false"}


def load(config: BoolQConfig) -> Loaded:
    """The questions behind their passages; those of LLM-Adapters' copy, which has none, as they are."""
    return Loaded(
        tuple(_prompt(config, row) for row in rows.read(config, ("question", "instruction"), ("answer", "label")))
    )


def _prompt(config: BoolQConfig, row: Row) -> Prompt:
    said = row.text("answer", "label")
    right, id = _TRUTH.get(said.casefold()), f"boolq:{row.place.row}"
    if right is None:
        raise ConfigError(f"{row.place}: the answer {said[:40]!r} is neither true nor false")
    if tasks.is_adapters_copy(row):
        text = tasks.instruction(row)
        return row.prompt(id, text, "harmless", references=(right,), answer_kind="true_false")
    parts = {"question": row.text("question").strip().rstrip("?"), "passage": row.maybe("passage") or ""}
    return tasks.asked(config, row, id, right, "true_false", parts)
