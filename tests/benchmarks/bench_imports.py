"""Seconds until `import safethink` is done and until the commands have printed their help.

Each is measured in processes of its own. The value is the lowest of the runs: a busy machine is slow now and then, slow
code always is.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.frame import BenchRow, timed

REPEATS: Final = 5
COMMANDS: Final = ("safethink", "safethink-optimize")
IMPORT: Final = "import time; start = time.perf_counter(); import safethink; print(time.perf_counter() - start)"


def rows() -> Iterator[BenchRow]:
    """Seconds of the import without the interpreter's start, and of `--help` with it."""
    yield _row(
        "import_safethink_seconds", sorted(float(_run(sys.executable, "-c", IMPORT)) for _ in range(REPEATS)), 0.4
    )
    for command in COMMANDS:
        script = str(Path(sys.executable).with_name(command))
        yield _row(f"help_{command}_seconds", timed(lambda script=script: _run(script, "--help"), REPEATS), 0.8)


def _row(name: str, seconds: list[float], target: float) -> BenchRow:
    note = f"lowest of {REPEATS} processes"
    return BenchRow(name, seconds[0], seconds[0], seconds[-1], target, direction="at_most", note=note)


def _run(*command: str) -> str:
    """Run a command to its end; what it printed."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
