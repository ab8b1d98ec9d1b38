"""Rows are opened in one place, so that a step is the same step in a guarded run, an evaluation and in learning."""

from __future__ import annotations

import ast
from pathlib import Path

import optimize
import safethink

OPENS_ROWS = "safethink/runtime/row.py"
ASKED_FOR_ITS_SIGNATURE = "safethink/defenses/rule.py"
CONFORMANCE_SUITE = "safethink/testing/script.py"


def made_in(source: str) -> set[str]:
    """Which of a row and a task the code makes."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {func.id if isinstance(func, ast.Name) else getattr(func, "attr", "") for func in calls}
    return names & {"Row", "Task"}


def test_only_open_row_makes_rows_and_tasks() -> None:
    makers = {}
    for package in (safethink, optimize):
        folder = Path(package.__path__[0])
        for path in folder.rglob("*.py"):
            if made := made_in(path.read_text(encoding="utf-8")):
                makers[path.relative_to(folder.parent).as_posix()] = made
    # A defense is bound to an empty task to check its signature, and a suite scripts one without an engine.
    assert makers == {
        OPENS_ROWS: {"Row", "Task"},
        ASKED_FOR_ITS_SIGNATURE: {"Task"},
        CONFORMANCE_SUITE: {"Task"},
    }
