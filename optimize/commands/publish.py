"""`safethink-optimize publish`."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from safethink import errors
from safethink.cli.program import parse, quiet_hub


@dataclass(frozen=True)
class Publish:
    """Publish an artifact to a folder, or in one commit to the hub; run it again to change nothing.

    Refused without a record of `test`, or where ASR there is not below that of the undefended reasoner.
    """

    path: tyro.conf.Positional[Path]
    """Folder of the artifact."""
    to: str
    """A folder (`./mine`), or OWNER/NAME of a repository on the hub, which is made where it is missing."""
    evaluation: Path | None = None
    """Run folder of `safethink evaluate` with this prefix on `test`, whose numbers go into the artifact first."""
    license: str | None = None
    """Licence as the hub spells it, such as `apache-2.0`; None keeps that of the artifact."""
    private: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """Say what would be uploaded and stop; nothing is written here or there."""
    json: bool = False
    """Print one JSON object and nothing else."""


def publish(argv: Sequence[str]) -> None:
    """`safethink-optimize publish`."""
    flags = parse(Publish, "safethink-optimize publish", argv)
    if flags.evaluation is not None:
        errors.require("report", "scipy")
    quiet_hub()
    from optimize.publishing import publish as publishing

    done = publishing.publish(
        flags.path,
        flags.to,
        run=flags.evaluation,
        license=flags.license,
        private=flags.private,
        dry_run=flags.dry_run,
    )
    if flags.json:
        print(jsonlib.dumps(asdict(done)))
        return
    place = f"{done.to}@{done.commit}" if done.commit else done.to
    if not done.changed:
        print(f"nothing changed: {place} has it all")
        return
    print(f"would publish to {done.to}:" if flags.dry_run else f"published as {place}:")
    for name in done.files:
        print(f"  {name}{'' if name in done.changed else ' (unchanged)'}")
