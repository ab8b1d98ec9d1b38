"""GSM8K, word problems (Cobbe et al., arXiv 2110.14168): JSONL `question,answer`, the final answer behind `####`."""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows, tasks
from safethink.benchmarks.rows import Row
from safethink.config import Gsm8kConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt


def load(config: Gsm8kConfig) -> Loaded:
    """The problems, of a file in the authors' layout or of LLM-Adapters' copy."""
    return Loaded(tuple(_prompt(config, row) for row in rows.read(config, ("question", "instruction"), "answer")))


def _prompt(config: Gsm8kConfig, row: Row) -> Prompt:
    is_copy = tasks.is_adapters_copy(row)
    question = tasks.instruction(row) if is_copy else row.text("question")
    reference = tasks.number(row, "answer") if is_copy else _final(row)
    return tasks.asked(config, row, f"gsm8k:{row.place.row}", reference, "number", {"question": question})


def _final(row: Row) -> str:
    """The final answer behind the worked solution."""
    _, mark, final = row.text("answer").rpartition("####")
    if not mark or not final.strip():
        raise ConfigError(f"{row.place}: the answer has no `####` with the final one behind it")
    return tasks.checked(row, final)
