"""A command whose extra is not installed says so before it loads anything."""

from __future__ import annotations

import sys

import pytest

from optimize.cli import PROGRAM as LEARNING
from safethink.cli.main import PROGRAM as RUNNING
from safethink.cli.program import Program


@pytest.mark.parametrize(
    ("program", "argv", "missing"),
    [
        (RUNNING, ["evaluate", "testbed"], "scipy"),
        (RUNNING, ["evaluate", "testbed"], "plotly"),
        (LEARNING, ["search", "testbed-gcg"], "scipy"),
        (LEARNING, ["testbed"], "scipy"),
        (LEARNING, ["demo"], "plotly"),
    ],
)
def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, program: Program, argv: list[str], missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert program.main([*argv, "--out", "/dev/null/run"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"{program.name}: this command needs {missing}: pip install 'safethink[report]'\n"
