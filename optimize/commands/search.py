"""`safethink-optimize search`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimize.config import SearchConfig
from safethink import errors
from safethink.cli.program import parse_with_config, quiet_libraries


@dataclass(frozen=True)
class Search:
    """Learn a prefix and export it; run it again to go on where it was interrupted.

    Writes the artifact to OUT/artifact; its search.jsonl gets every step of the search as it happens.
    """

    out: Path = Path("runs/search")
    """Folder of the run."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    json: bool = False
    """Print the artifact as JSON and nothing else."""


def search(argv: Sequence[str]) -> None:
    """`safethink-optimize search`."""
    flags, config = parse_with_config(Search, SearchConfig, "search", "safethink-optimize search", argv)
    if flags.dry_run:
        from optimize.pipeline.dry_run import plan
        from safethink.config.yaml_config import dump

        planned = plan(config)
        print(planned.model_dump_json() if flags.json else dump(config, planned))
        return
    errors.require("report", "scipy")
    quiet_libraries()
    from optimize.pipeline.api import shared_search_command
    from optimize.pipeline.learning import ARTIFACT

    artifact = shared_search_command(config, flags.out)
    if artifact is None:
        return
    if flags.json:
        print(artifact.model_dump_json())
        return
    for text in artifact.texts:
        print(repr(text))
    for name, metric in artifact.metrics.items():
        print(f"{name:<24} {metric.value:.3f}  [{metric.low:.3f}, {metric.high:.3f}]  n = {metric.n}")
    print(f"artifact: {flags.out / ARTIFACT}")
