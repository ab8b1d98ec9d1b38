"""Reads the project's source as text: which module imports what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def modules(package: str) -> list[Path]:
    """Every Python file of a top-level package."""
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere: at the top, in functions, for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return {name for node in ast.walk(tree) for name in _names(node, path)}


def imports_any(path: Path, packages: set[str]) -> bool:
    """Whether a file imports one of these top-level packages."""
    return any(name.split(".")[0] in packages for name in imported(path))


def _names(node: ast.AST, path: Path) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=0):
            yield from (f"{module}.{alias.name}" for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            package = path.relative_to(ROOT).parts[:-level]
            yield from (".".join([*package, *filter(None, [module]), alias.name]) for alias in names)
        case ast.Call(
            func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(name)), *_],
        ):
            yield name
