"""First lines of docstrings name the thing; a question is left to what answers it: booleans."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.source import ROOT, modules

RIDDLE = re.compile(r"(What|How|Where|Whether|Why|Who|Whose|When|Which)\b")
FILES = [*modules("safethink"), *modules("optimize"), *modules("docs")]


def riddles(tree: ast.Module) -> Iterator[int]:
    """Lines of docstrings that open with a question, though nothing is answered with yes or no."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        answer = node.returns if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None
        if RIDDLE.match(ast.get_docstring(node) or "") and not _is_bool(answer):
            yield node.body[0].lineno
        for before, after in pairwise(node.body):
            annotation = before.annotation if isinstance(before, ast.AnnAssign) else None
            is_described = isinstance(before, ast.Assign | ast.AnnAssign)
            if is_described and RIDDLE.match(_text(after)) and not _is_bool(annotation):
                yield after.lineno


def _is_bool(annotation: ast.expr | None) -> bool:
    return annotation is not None and "bool" in ast.unparse(annotation).lower()


def _text(node: ast.stmt) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return text
        case _:
            return ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_name_the_thing(path: Path) -> None:
    lines = list(riddles(ast.parse(path.read_text(encoding="utf-8"))))
    assert not lines, (
        f"{path}:{lines}: say what it is in the field's words; a question only opens a boolean's docstring"
    )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""What it is."""', 1),
        ('def f() -> int:\n    """How many."""', 1),
        ('def f() -> bool:\n    """Whether it is."""', 0),
        ('class A:\n    x: int\n    """How many."""', 1),
        ('class A:\n    x: bool\n    """Whether it is."""', 0),
        ('X = 1\n"""Number of it."""', 0),
    ],
)
def test_a_riddle_is_seen(source: str, found: int) -> None:
    assert len(list(riddles(ast.parse(source)))) == found
