"""Importing loads nothing heavy, and neither does help; `tests/benchmarks/bench_imports.py` measures the seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = """
import sys
print("heavy:", *sorted({"torch", "transformers", "scipy", "plotly"} & set(sys.modules)))
"""


def said_by(program: str) -> str:
    """What a Python process of its own prints that runs the program and then names the heavy modules it has loaded."""
    return subprocess.run([sys.executable, "-c", program + HEAVY], capture_output=True, text=True, check=True).stdout


def test_importing_safethink_is_light() -> None:
    assert said_by("import safethink") == "heavy:\n"


@pytest.mark.parametrize(
    ("command", "module"), [("safethink", "safethink.cli.main"), ("safethink-optimize", "optimize.cli")]
)
def test_help_is_light(command: str, module: str) -> None:
    said = said_by(f"from {module} import PROGRAM; PROGRAM.main(['--help'])")
    assert command in said
    assert said.splitlines()[-1] == "heavy:"
