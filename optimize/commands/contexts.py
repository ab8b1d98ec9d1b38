"""`safethink-optimize contexts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimize.config import CollectConfig
from safethink import errors
from safethink.cli.program import parse_with_config, quiet_libraries


@dataclass(frozen=True)
class Contexts:
    """Collect the states at which the monitor fires, once, for every search that is given the folder.

    Pass it on with `--contexts.path OUT`. Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/contexts")
    """Folder of the contexts."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    json: bool = False
    """Print the manifest as JSON and nothing else."""


def contexts(argv: Sequence[str]) -> None:
    """`safethink-optimize contexts`."""
    flags, config = parse_with_config(Contexts, CollectConfig, "contexts", "safethink-optimize contexts", argv)
    if flags.dry_run:
        from optimize.pipeline.dry_run import plan_contexts
        from safethink.config.yaml_config import dump

        planned = plan_contexts(config)
        print(planned.model_dump_json() if flags.json else dump(config, planned))
        return
    errors.require("report", "scipy")
    quiet_libraries()
    from optimize.contexts.context import ContextSet
    from optimize.contexts.folder import SEARCH, VALIDATION
    from optimize.pipeline.api import contexts_command

    manifest = contexts_command(config, flags.out)
    if flags.json:
        print(manifest.model_dump_json())
        return
    for name in (SEARCH, VALIDATION):
        print(f"{flags.out / name}: {ContextSet.load(flags.out / name).told()}")
    for name, overlap in manifest.overlaps.items():
        print(f"{overlap.shared} of {overlap.total} prompts of {name} were rolled out: do not report on it")
