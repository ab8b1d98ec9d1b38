"""`safethink-optimize study`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optimize.study.config import StudyConfig
from safethink import errors
from safethink.cli.program import parse_with_config, quiet_libraries
from safethink.errors import SearchError

if TYPE_CHECKING:
    from optimize.study.report import Line


@dataclass(frozen=True)
class Study:
    """Let Optuna choose how to search: one trial is one whole search, judged on validation.

    Run it again to go on; start it on several machines with one `--storage` to share the trials.
    """

    out: Path = Path("runs/study")
    """Folder of the study; the report is OUT/report.html, every trial's search is in OUT/trials."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    json: bool = False
    """Print the trials as JSON and nothing else."""


def study(argv: Sequence[str]) -> None:
    """`safethink-optimize study`."""
    flags, config = parse_with_config(Study, StudyConfig, "study", "safethink-optimize study", argv)
    if flags.dry_run:
        from optimize.study.plan import plan_study
        from safethink.config.yaml_config import dump

        planned = plan_study(config)
        print(planned.model_dump_json() if flags.json else dump(config, planned))
        return
    errors.require("study", "optuna", "scipy", "plotly")
    quiet_libraries()
    from optimize.quiet import quiet_optuna
    from optimize.study import report, storage, workers

    flags.out.mkdir(parents=True, exist_ok=True)
    with quiet_optuna(), storage.reachable(config, flags.out):
        finished = workers.run(config, flags.out)
        winners = report.winners(finished, flags.out)
        page = report.write(finished, config, flags.out)
        lines = report.lines(finished, config)
        reason = report.why_nothing(finished)
    if flags.json:
        import json

        print(json.dumps([asdict(line) for line in lines]))
    else:
        _print(lines, winners, page)
    if reason is not None:
        raise SearchError(f"no trial found a prefix; the first of them says: {reason}")


def _print(lines: Sequence[Line], winners: Sequence[Path], page: Path) -> None:
    for line in lines:
        values = "  ".join(f"{goal} {value:.3f}{_interval(line, goal)}" for goal, value in line.values.items())
        mark = "*" if line.best else " "
        print(f"{mark} trial {line.number:<4} {line.state:<9} {values:<44} {line.text!r}")
    for folder in winners:
        print(f"artifact: {folder}")
    print(f"report: {page}")


def _interval(line: Line, goal: str) -> str:
    if goal not in line.intervals:
        return ""
    low, high, n = line.intervals[goal]
    return f" [{low:.3f}, {high:.3f}] n = {n}"
