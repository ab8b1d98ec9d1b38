"""`python -m tests.benchmarks [NAME ...]`: run all benches, or those named.

A target that is missed is a finding, not a crash.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests import benchmarks
from tests.benchmarks import frame

FOLDER = Path("runs/bench")


def main(wanted: list[str]) -> int:
    """Run the benches, print a line per row and write `runs/bench/NAME.json`.

    Returns:
        1 if a row's exactness check failed or a name is unknown: a fast wrong answer is a bug.
    """
    found = frame.find(benchmarks.__name__, benchmarks.__path__, wanted)
    unknown = sorted(set(wanted) - found.keys())
    if unknown:
        print(f"no bench called {', '.join(unknown)}", file=sys.stderr)
        return 1
    inexact = False
    for name, rows in found.items():
        print(f"{name}:", flush=True)
        measured = []
        for row in rows():
            measured.append(row)
            print(f"  {frame.line(row)}", flush=True)
        print(f"  -> {frame.write(name, measured, FOLDER)}", flush=True)
        inexact |= any(row.exact is False for row in measured)
    return int(inexact)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
