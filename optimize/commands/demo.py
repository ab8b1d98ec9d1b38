"""`safethink-optimize demo`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safethink import errors
from safethink.cli.program import console, parse, quiet_libraries


@dataclass(frozen=True)
class Demo:
    """The main job on the testbed: learn a prefix, export it, guard the reasoner with it, report.

    Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/demo")
    """Folder of the run."""
    json: bool = False
    """Print the summary as JSON and nothing else."""


def demo(argv: Sequence[str]) -> None:
    """`safethink-optimize demo`."""
    flags = parse(Demo, "safethink-optimize demo", argv)
    errors.require("report", "scipy", "plotly")
    quiet_libraries()
    from optimize.pipeline.demo import run
    from safethink.evaluation.table import table

    summary = run(flags.out)
    if flags.json:
        print(summary.model_dump_json())
        return
    console().print(table(summary))
    print(f"report: {flags.out / 'report.html'}")
