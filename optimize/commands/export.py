"""`safethink-optimize export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from safethink.cli.program import parse, quiet_libraries


@dataclass(frozen=True)
class Export:
    """Make a soft prefix run on any server: a copy of its reasoner in which the rows are tokens.

    Writes the copy to OUT, and beside its weights the prefix as token ids of it: an artifact like any other.
    """

    path: tyro.conf.Positional[Path]
    """Folder of the soft artifact."""
    reasoner: str
    """Reasoner that it was learned on: a folder, a hub id or `testbed`."""
    out: Path
    """Folder of the copy; must not exist, or be empty."""
    json: bool = False
    """Print the artifact as JSON and nothing else."""


def export(argv: Sequence[str]) -> None:
    """`safethink-optimize export`."""
    flags = parse(Export, "safethink-optimize export", argv)
    quiet_libraries()
    from optimize.publishing.extend_vocabulary import extend_vocabulary

    artifact = extend_vocabulary(flags.path, flags.reasoner, flags.out)
    if flags.json:
        print(artifact.model_dump_json())
        return
    for prefix in artifact.prefixes:
        print(f"{prefix.text!r}: token ids {list(prefix.token_ids)}")
    print(f"reasoner and artifact: {flags.out}")
