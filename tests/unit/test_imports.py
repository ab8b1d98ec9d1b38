"""Importing is light and help is instant: no torch, no waiting."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

TRIES = 5
"""Best of so many: a busy machine is slow now and then, slow code always is."""

IMPORT = """
import sys, time
start = time.perf_counter()
import safethink
print(time.perf_counter() - start)
print(*sorted({"torch", "transformers", "scipy", "plotly"} & set(sys.modules)))
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_importing_safethink_is_light() -> None:
    outputs = [run(sys.executable, "-c", IMPORT).stdout.split("\n") for _ in range(TRIES)]
    assert {heavy for _, heavy, *_ in outputs} == {""}
    assert min(float(seconds) for seconds, *_ in outputs) < 0.4


@pytest.mark.parametrize("command", ["safethink", "safethink-optimize"])
def test_help_is_instant(command: str) -> None:
    script = str(Path(sys.executable).with_name(command))
    seconds: list[float] = []
    for _ in range(TRIES):
        start = time.perf_counter()
        said = run(script, "--help").stdout
        seconds.append(time.perf_counter() - start)
        assert command in said
    assert min(seconds) < 0.8
