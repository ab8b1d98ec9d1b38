"""MultiArith, two-step word problems (Roy and Roth, "Solving General Arithmetic Word Problems", EMNLP 2015).

JSON `sQuestion,lSolutions` as MAWPS holds it; on the hub `question,final_ans`.
"""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows, tasks
from safethink.benchmarks.rows import Row
from safethink.config import MultiArithConfig
from safethink.prompts import Prompt


def load(config: MultiArithConfig) -> Loaded:
    """The problems, of a file in one of these layouts or of LLM-Adapters' copy."""
    wanted = ("sQuestion", "question", "instruction"), ("lSolutions", "final_ans", "answer")
    return Loaded(tuple(_prompt(config, row) for row in rows.read(config, *wanted)))


def _prompt(config: MultiArithConfig, row: Row) -> Prompt:
    reference = tasks.number(row, "lSolutions", "final_ans", "answer")
    question = tasks.instruction(row) if tasks.is_adapters_copy(row) else row.text("sQuestion", "question").strip()
    own_id = row.maybe("iIndex") or row.place.row
    return tasks.asked(config, row, f"multiarith:{own_id}", reference, "number", {"question": question})
