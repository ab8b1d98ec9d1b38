"""A package with plug-ins, as an installer would leave it on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, entry_points: str, name: str = "third_party"
) -> None:
    """Put a module and its entry points on the path, until the test ends.

    Args:
        folder: an empty one.
        monkeypatch: takes it off the path again.
        module: the module's source.
        entry_points: its entry_points.txt.
        name: the module's and the package's name.
    """
    (folder / f"{name}.py").write_text(module, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
