"""`safethink-optimize ablate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimize.ablation.config import AblationConfig
from optimize.ablation.grid import expand
from safethink import errors
from safethink.cli.program import console, parse_with_config, quiet_libraries
from safethink.errors import SafeThinkError


@dataclass(frozen=True)
class Ablate:
    """Learn or take a prefix in every cell of a grid, and measure them all alike.

    Writes OUT/ablation.json, OUT/report.html and a folder for every cell. Run it again to go on where it was
    interrupted: a finished cell is never run again, and a grid may grow.
    """

    out: Path = Path("runs/ablation")
    """Folder of the ablation."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    json: bool = False
    """Print the numbers as JSON and nothing else."""


def ablate(argv: Sequence[str]) -> None:
    """`safethink-optimize ablate`."""
    flags, config = parse_with_config(Ablate, AblationConfig, "ablate", "safethink-optimize ablate", argv)
    expand(config)  # A mistake in the grid is named before anything loads.
    if flags.dry_run:
        from optimize.ablation.plan import plan
        from safethink.config.yaml_config import dump

        planned = plan(config)
        print(planned.model_dump_json() if flags.json else dump(config, planned))
        return
    errors.require("report", "scipy", "plotly")
    quiet_libraries()
    from optimize.ablation import run
    from optimize.ablation.report import table
    from optimize.pipeline.process_pool import explain

    done = run.ablate(config, flags.out)
    if flags.json:
        print(done.model_dump_json())
    else:
        if done.points:
            console().print(table(done))
        print(f"report: {flags.out / run.REPORT}")
    if done.failures:
        raise SafeThinkError(f"{explain(done.failures)}; the same command runs what is missing")
