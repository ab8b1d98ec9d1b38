"""An artifact goes out: to a folder or the hub, or into the vocabulary of its reasoner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from safethink import errors
from safethink.cli.flags import POSITIONAL
from safethink.cli.parsing import parse
from safethink.cli.program import CommandFlags, quiet_hub, quiet_libraries, show

if TYPE_CHECKING:
    from optimize.publishing.publish import Published


class Publish(CommandFlags):
    """Publish an artifact to a folder, or in one commit to the hub; run it again to change nothing.

    Refused without a record of `test`, or where ASR there is not below that of the undefended reasoner.
    """

    path: Annotated[Path, POSITIONAL]
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


class Export(CommandFlags):
    """Make a soft prefix run on any server: a copy of its reasoner in which the rows are tokens.

    Writes the copy to OUT, and beside its weights the prefix as token ids of it: an artifact like any other.
    """

    path: Annotated[Path, POSITIONAL]
    """Folder of the soft artifact."""
    reasoner: str
    """Reasoner that it was learned on: a folder, a hub id or `testbed`."""
    out: Path
    """Folder of the copy; must not exist, or be empty."""


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
    show(flags.as_json, lambda: asdict(done), lambda: _told(done, flags.dry_run))


def _told(done: Published, dry_run: bool) -> str:
    place = f"{done.to}@{done.commit}" if done.commit else done.to
    if not done.changed:
        return f"nothing changed: {place} has it all"
    files = [f"  {name}{'' if name in done.changed else ' (unchanged)'}" for name in done.files]
    return "\n".join([f"would publish to {done.to}:" if dry_run else f"published as {place}:", *files])


def export(argv: Sequence[str]) -> None:
    """`safethink-optimize export`."""
    flags = parse(Export, "safethink-optimize export", argv)
    quiet_libraries()
    from optimize.publishing.extend_vocabulary import extend_vocabulary

    artifact = extend_vocabulary(flags.path, flags.reasoner, flags.out)
    prefixes = [f"{prefix.text!r}: token ids {list(prefix.token_ids)}" for prefix in artifact.prefixes]
    show(flags.as_json, lambda: artifact, lambda: "\n".join([*prefixes, f"reasoner and artifact: {flags.out}"]))
