"""`safethink calibrate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safethink import errors
from safethink.cli.parsing import parse_with_config
from safethink.cli.program import REPORT_EXTRA, RunFlags, run_or_plan
from safethink.config import CalibrateConfig

if TYPE_CHECKING:
    from safethink.evaluation.calibration import CalibrationResult, Interventions


class Calibrate(RunFlags):
    """Find the threshold below which surely few harmless prompts ever see an intervention.

    Rolls out harmless prompts unguarded and bounds the share whose lowest score is below a threshold, exactly
    (learn-then-test, arXiv 2110.01052). CONFIG may name the prompts as `benchmarks`, as that of an evaluation does:
    all of them that are no attacks count, those that only look harmful too, and the interventions are told by
    benchmark. Run it again to go on where it was interrupted. Writes calibration.json and calibration.html.
    """

    max_false_interventions: float = 0.01
    """The share of harmless prompts that may see an intervention."""
    delta: float = 0.05
    """The probability with which that limit may be missed."""
    prompts: str | None = None
    """JSONL with prompts of one's own, of which the harmless ones are taken; left out for the `benchmarks` of CONFIG,
    or the testbed's prompts."""
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
    flags, config = parse_with_config(Calibrate, CalibrateConfig, "run", "safethink calibrate", argv)
    errors.require("report", *REPORT_EXTRA["report"])
    from safethink.config.yaml_config import validate
    from safethink.evaluation import calibration

    names = calibration.CalibrationConfig.model_fields.keys() & Calibrate.model_fields
    given = {name: getattr(flags, name) for name in names} | {"benchmarks": config.benchmarks}
    wanted = validate(calibration.CalibrationConfig, given, "flags")
    run_or_plan(
        flags,
        [config.run, wanted],
        lambda: calibration.plan(config.run, wanted, flags.probe),
        lambda: calibration.run(config.run, wanted, flags.out),
        lambda result: _told(result, flags.out / calibration.REPORT),
        REPORT_EXTRA,
    )


def _told(result: CalibrationResult, page: Path) -> str:
    counted = "all steps" if result.steps is None else f"the first {result.steps} steps"
    attacks = f"; {result.attacks} attacks left out" if result.attacks else ""
    return "\n".join(
        [
            f"threshold: {result.threshold}",
            f"on {result.n} harmless prompts, {counted} counted: {_share(result)}; "
            f"with confidence {1 - result.delta:g} at most {result.bound:.2%}{attacks}",
            *(f"  {name}: {_share(each)} of {each.n}" for name, each in result.benchmarks.items()),
            f"for the YAML:\n  defense: {{kind: safethink, threshold: {result.threshold}}}",
            f"report: {page}",
        ]
    )


def _share(found: CalibrationResult | Interventions) -> str:
    return f"{found.interventions} interventions, {found.rate:.2%} [{found.low:.2%}, {found.high:.2%}]"
