"""`safethink calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safethink import errors
from safethink.cli.parsing import parse_with_config
from safethink.cli.program import REPORT_EXTRA, RunFlags, run_or_plan
from safethink.config import RunConfig

if TYPE_CHECKING:
    from safethink.evaluation.calibration import CalibrationResult


class Calibrate(RunFlags):
    """Find the threshold below which surely few harmless prompts ever see an intervention.

    Rolls out harmless prompts unguarded and bounds the share whose lowest score is below a threshold, exactly
    (learn-then-test, arXiv 2110.01052). Run it again to go on where it was interrupted. Writes calibration.json and
    calibration.html.
    """

    max_false_interventions: float = 0.01
    """The share of harmless prompts that may see an intervention."""
    delta: float = 0.05
    """The probability with which that limit may be missed."""
    prompts: str | None = None
    """JSONL with prompts of one's own, of which the harmless ones are taken; left out for the testbed's."""
    n: int = 1000
    """Number of prompts drawn from the testbed."""
    prompts_seed: int = 1
    """Draws them."""
    steered_only: bool = False
    """Count only the steps that the configured defense would steer, rather than all steps of a trace."""
    out: Path = Path("runs/calibrate")
    """Folder of the run."""


def calibrate(argv: Sequence[str]) -> None:
    """`safethink calibrate`."""
    flags, config = parse_with_config(Calibrate, RunConfig, "run", "safethink calibrate", argv)
    errors.require("report", *REPORT_EXTRA["report"])
    from safethink.config.yaml_config import validate
    from safethink.evaluation import calibration

    names = calibration.CalibrationConfig.model_fields
    wanted = validate(calibration.CalibrationConfig, {name: getattr(flags, name) for name in names}, "flags")
    run_or_plan(
        flags,
        [config, wanted],
        lambda: calibration.plan(config, wanted, flags.probe),
        lambda: calibration.run(config, wanted, flags.out),
        lambda result: _told(result, flags.out / calibration.REPORT),
        REPORT_EXTRA,
    )


def _told(result: CalibrationResult, page: Path) -> str:
    counted = "all steps" if result.steps is None else f"the first {result.steps} steps"
    return (
        f"threshold: {result.threshold}\n"
        f"on {result.n} harmless prompts, {counted} counted: {result.interventions} interventions, "
        f"{result.rate:.2%} [{result.low:.2%}, {result.high:.2%}]; "
        f"with confidence {1 - result.delta:g} at most {result.bound:.2%}\n"
        f"for the YAML:\n  defense: {{kind: safethink, threshold: {result.threshold}}}\n"
        f"report: {page}"
    )
