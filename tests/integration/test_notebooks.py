"""The notebooks run from top to bottom, and each is what its source says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.source import ROOT

pytestmark = pytest.mark.slow

FOLDER = ROOT / "notebooks"
SOURCES = sorted(FOLDER.glob("*.py"))
REAL = "real_weights"
"""Reads weights that the package registry has and a test has not: .ci/run runs it."""


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Kind and text of every cell; ids differ from one conversion to the next."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def test_there_is_a_source_for_every_notebook() -> None:
    assert [path.with_suffix(".ipynb") for path in SOURCES] == sorted(FOLDER.glob("*.ipynb"))
    assert {path.stem for path in SOURCES} >= {
        "quickstart",
        "learn_a_prefix",
        "publish_a_prefix",
        "your_own_defense",
        "your_own_objective",
        "length_ablation",
        REAL,
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_is_its_source_with_the_outputs_of_a_run_and_no_path_of_a_machine(source: Path) -> None:
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    said = f"run: python -m docs.tools.run_notebooks {source.stem}"
    assert cells(notebook) == cells(jupytext.read(source)), said
    outputs = [cell.outputs for cell in notebook.cells if cell.get("outputs")]
    assert outputs, said
    printed = json.dumps(outputs)
    assert '"output_type": "error"' not in printed
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", printed)


@pytest.mark.parametrize("source", [each for each in SOURCES if each.stem != REAL], ids=lambda path: path.stem)
def test_a_notebook_runs(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFETHINK_TINY", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    # What it writes, it writes where it runs.
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
