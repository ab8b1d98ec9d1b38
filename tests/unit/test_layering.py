"""One direction: optimize imports safethink, never the reverse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT, imported, imports_any, modules


def test_safethink_never_imports_optimize() -> None:
    culprits = [str(path.relative_to(ROOT)) for path in modules("safethink") if imports_any(path, {"optimize"})]
    assert culprits == []


def test_optimize_imports_safethink() -> None:
    assert any(imports_any(path, {"safethink"}) for path in modules("optimize"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import optimize", "optimize"),
        ("def f():\n    from optimize.search import gcg", "optimize.search.gcg"),
        ("if TYPE_CHECKING:\n    import optimize.soft as soft", "optimize.soft"),
        ("from ..engines import hf", "safethink.engines.hf"),
        ("from . import effects", "safethink.defenses.effects"),
        ("importlib.import_module('optimize.soft')", "optimize.soft"),
    ],
)
def test_every_way_to_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str) -> None:
    monkeypatch.setattr("tests.source.ROOT", tmp_path)
    path = tmp_path / "safethink" / "defenses" / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert name in imported(path)


@pytest.mark.parametrize(("package", "status"), [("safethink", 1), ("optimize", 0)])
def test_lint_rule_bans_it_too(package: str, status: int) -> None:
    command = [sys.executable, "-m", "ruff", "check", "--select=TID251", f"--stdin-filename={package}/module.py", "-"]
    lint = subprocess.run(command, input="import optimize.search\n", cwd=ROOT, capture_output=True, text=True)
    assert lint.returncode == status, lint.stdout + lint.stderr
    assert ("TID251" in lint.stdout) == bool(status)
