"""SVAMP, one-step word problems (Patel et al., arXiv 2103.07191): JSON `ID,Body,Question,Equation,Answer,Type`."""

from __future__ import annotations

from safethink.benchmarks import Loaded, rows, tasks
from safethink.benchmarks.rows import Row
from safethink.config import SvampConfig
from safethink.prompts import Prompt


def load(config: SvampConfig) -> Loaded:
    """The problems by their operation, of a file in the authors' layout or of LLM-Adapters' copy."""
    wanted = ("Question", "instruction"), ("Answer", "answer")
    return Loaded(tuple(_prompt(config, row) for row in rows.read(config, *wanted)))


def _prompt(config: SvampConfig, row: Row) -> Prompt:
    reference = tasks.number(row, "Answer", "answer")
    parts = {"question": tasks.instruction(row) if tasks.is_adapters_copy(row) else _story(row)}
    own_id = row.maybe("ID") or row.place.row
    return tasks.asked(config, row, f"svamp:{own_id}", reference, "number", parts, category=row.maybe("Type"))


def _story(row: Row) -> str:
    """The story and the question; many stories lack their full stop."""
    body = row.text("Body").strip()
    return f"{body}{'.' if body[-1:].isalnum() else ''} {row.text('Question').strip()}"
