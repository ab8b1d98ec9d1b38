"""Rows are opened in one place, so that a step is the same step in a guarded run, an evaluation and in learning."""

from __future__ import annotations

import ast
from pathlib import Path

import optimize
import safethink

OPENS_ROWS = "safethink/runtime/row.py"
ASKED_FOR_ITS_SIGNATURE = "safethink/defenses/rule.py"
CONFORMANCE_SUITE = "safethink/testing/script.py"
ROWS_OF_FILES = {"safethink.benchmarks.rows", "optimize.reasoners.rows"}


def made_in(module: str, source: str) -> set[str]:
    """Which of a row and a task the code makes; the rows of a file of prompts or of training data are others."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {getattr(node.func, "id", getattr(node.func, "attr", "")) for node in nodes if isinstance(node, ast.Call)}
    known = {module, *(node.module for node in nodes if isinstance(node, ast.ImportFrom))}
    return names & ({"Task"} if known & ROWS_OF_FILES else {"Row", "Task"})


def test_only_open_row_makes_rows_and_tasks() -> None:
    makers = {}
    for package in (safethink, optimize):
        folder = Path(package.__path__[0])
        for path in folder.rglob("*.py"):
            name = path.relative_to(folder.parent).as_posix()
            if made := made_in(name.removesuffix(".py").replace("/", "."), path.read_text(encoding="utf-8")):
                makers[name] = made
    # A defense is bound to an empty task to check its signature, and a suite scripts one without an engine.
    assert makers == {
        OPENS_ROWS: {"Row", "Task"},
        ASKED_FOR_ITS_SIGNATURE: {"Task"},
        CONFORMANCE_SUITE: {"Task"},
    }
