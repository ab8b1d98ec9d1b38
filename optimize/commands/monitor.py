"""`safethink-optimize monitor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimize.monitors.config import TrainMonitorConfig
from safethink import errors
from safethink.cli.program import parse_with_config, quiet_libraries


@dataclass(frozen=True)
class Monitor:
    """Train a monitor from another's labels: a probe, or a reward model; run it again to go on where it stopped.

    Writes the monitor to OUT/monitor, which `monitor.path` takes, and what was measured to OUT/summary.json.
    """

    out: Path = Path("runs/monitor")
    """Folder of the training."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    json: bool = False
    """Print the summary as JSON and nothing else."""


def monitor(argv: Sequence[str]) -> None:
    """`safethink-optimize monitor`."""
    flags, config = parse_with_config(Monitor, TrainMonitorConfig, "monitor", "safethink-optimize monitor", argv)
    needed = ("lightning",) if config.monitor.kind == "probe" else ("trl", "datasets")
    if flags.dry_run:
        from optimize.monitors.run import plan
        from safethink.config.yaml_config import dump

        planned = plan(config)
        print(planned.model_dump_json() if flags.json else dump(config, planned))
        return
    errors.require("train", *needed)
    errors.require("report", "scipy")
    quiet_libraries()
    from optimize.monitors.run import run

    trained = run(config, flags.out)
    if flags.json:
        print(trained.model_dump_json())
        return
    for name, count in trained.partial_traces.items():
        print(f"{name}: {count} partial traces, {trained.unsafe[name]} unsafe")
    for name, metric in trained.metrics.items():
        print(f"{name:<24} {metric.value:.3f}  [{metric.low:.3f}, {metric.high:.3f}]  n = {metric.n}")
    print(f"monitor: {{kind: {trained.kind}, path: {trained.path}}}")
