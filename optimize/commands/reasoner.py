"""The command that makes a small reasoner of a pretrained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimize.reasoners.config import ReasonerTrainingConfig
from safethink.cli.parsing import parse_with_config
from safethink.cli.program import RunFlags, metric_lines, run_or_plan

if TYPE_CHECKING:
    from optimize.reasoners.plan import ReasonerPlan
    from optimize.reasoners.run import Reasoner


class MakeReasoner(RunFlags):
    """Teach a pretrained model to think in steps, by LoRA, and measure it; run it again to go on where it stopped.

    Writes the adapter with its card to OUT/adapter, which `reasoner.path` takes. Run it again with other
    `--evaluation.benchmarks` to measure it on them; nothing is trained again. Sets that the seed or
    anything else was chosen by are `--evaluation.development`: the card keeps them apart.
    """

    out: Path = Path("runs/reasoner")
    """Folder of the training."""


def reasoner(argv: Sequence[str]) -> None:
    """`safethink-optimize reasoner`."""
    flags, config = parse_with_config(
        MakeReasoner, ReasonerTrainingConfig, "reasoner", "safethink-optimize reasoner", argv
    )

    def plan() -> ReasonerPlan:
        from optimize.reasoners.plan import plan

        return plan(config, probe=flags.probe)

    def run() -> Reasoner:
        from optimize.reasoners.run import run

        return run(config, flags.out)

    run_or_plan(flags, [config], plan, run, _made, {"train": ["trl", "datasets", "peft"], "report": ["scipy"]})


def _made(made: Reasoner) -> str:
    lines = [f"{made.rows} rows, final loss {made.final_loss:.2f} nats per token"]
    for name, sets in (("", made.sets), (", development", made.development)):
        for measured in sets:
            lines += [f"{measured.name}{name}:", *metric_lines(measured.metrics)]
    return "\n".join([*lines, f"reasoner: {{path: {made.path}}}"])
