"""`safethink prefix`: looks at artifacts, checks them, and compares two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import tyro

from safethink import errors
from safethink.cli.program import Command, Program, parse, parse_with_config, quiet_hub, quiet_libraries, show
from safethink.config import EvalConfig, NoneConfig
from safethink.errors import ConfigError

if TYPE_CHECKING:
    from safethink.prefix import PrefixArtifact

EVALUATION: Final = "testbed"
"""The shipped evaluation whose prompts two prefixes are compared on."""


@dataclass(frozen=True)
class PrefixList:
    """The prefixes that ship with the package."""

    json: bool = False
    """Print a JSON list and nothing else."""


@dataclass(frozen=True)
class PrefixShow:
    """What an artifact holds: its texts, what it was learned on, and what was measured."""

    path: tyro.conf.Positional[str]
    """Folder of an artifact, or name of a built-in prefix."""
    reasoner: str | None = None
    """Folder or hub id of a reasoner to bind it to: shows its token ids there, and whether it is transferred."""
    json: bool = False
    """Print prefix.json and nothing else; with a reasoner, also `transferred`."""


@dataclass(frozen=True)
class PrefixVerify:
    """Check an artifact: schema, hashes, the round trip between text and token ids, and whether rows fit."""

    path: tyro.conf.Positional[str]
    """Folder of an artifact, or name of a built-in prefix."""
    reasoner: str = "testbed"
    """Folder or hub id of the reasoner that it must fit; the weights are read for a soft prefix alone."""


@dataclass(frozen=True)
class PrefixCompare:
    """Evaluate two prefixes on the same prompts and seeds; run it again to go on where it was interrupted.

    CONFIG is an evaluation, `eval/testbed` where it is left out: its reasoner, its prompts and the defense of its row
    on trial. Writes what an evaluation writes, and comparison.json.
    """

    out: Path = Path("runs/compare")
    """Folder of the run."""
    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    json: bool = False
    """Print the comparison as JSON and nothing else."""


def prefix_list(argv: Sequence[str]) -> None:
    """`safethink prefix list`."""
    from safethink import prefix

    flags = parse(PrefixList, "safethink prefix list", argv)
    names = prefix.list_built_in()
    show(flags.json, lambda: list(names), lambda: "\n".join(names))


def prefix_show(argv: Sequence[str]) -> None:
    """`safethink prefix show`."""
    from safethink import prefix
    from safethink.config.yaml_config import dump

    flags = parse(PrefixShow, "safethink prefix show", argv)
    quiet_hub()
    artifact = prefix.load(flags.path)
    if flags.reasoner is None:
        show(flags.json, lambda: artifact.model_dump(mode="json"), lambda: dump(artifact))
        return
    bound = _bound(artifact, flags.reasoner)
    transferred = {"transferred": bound.transferred}
    words = f"{dump(bound)}transferred: {str(bound.transferred).lower()}"
    show(flags.json, lambda: bound.model_dump(mode="json") | transferred, lambda: words)


def prefix_verify(argv: Sequence[str]) -> None:
    """`safethink prefix verify`."""
    from safethink import prefix

    flags = parse(PrefixVerify, "safethink prefix verify", argv)
    quiet_hub()
    artifact = prefix.load(flags.path)
    bound = _bound(artifact, flags.reasoner)
    for shown, ids in zip(bound.texts, bound.token_ids, strict=True):
        print(f"{shown!r} <-> {list(ids)}")
    fits = "is transferred to" if bound.transferred else "fits"
    what = flags.reasoner if artifact.kind == "soft" else f"the tokenizer of {flags.reasoner}"
    print(f"{artifact.name}: {fits} {what}; hashes match")


def prefix_compare(argv: Sequence[str]) -> None:
    """`safethink prefix compare`."""
    words = list(takewhile(lambda word: not word.startswith("-"), argv))
    if {"-h", "--help"} & set(argv):
        words, argv = ["A", "B"], ["A", "B", "--help"]
    elif len(words) not in (2, 3):
        raise ConfigError("safethink prefix compare takes two prefixes, and then an evaluation's YAML file or its name")
    a, b, *config_name = words
    rest = [*(config_name or [EVALUATION]), *argv[len(words) :]]
    flags, config = parse_with_config(PrefixCompare, EvalConfig, "eval", "safethink prefix compare A B", rest)
    if flags.dry_run:
        from safethink.config.yaml_config import dump
        from safethink.evaluation.plan import paired_config, plan

        paired = paired_config(a, b, config)
        planned = plan(paired)
        show(flags.json, lambda: planned.model_dump(), lambda: dump(paired, planned))
        return
    errors.require("report", "scipy", "plotly")
    quiet_libraries()
    from safethink.evaluation.compare import compare, table

    comparison = compare(a, b, config, flags.out)
    show(flags.json, lambda: comparison.model_dump(mode="json"), lambda: table(comparison))


PREFIX = Program(
    "safethink prefix",
    "Prefix artifacts.",
    (
        Command("list", "names of the built-in prefixes", prefix_list),
        Command("show", "what an artifact holds", prefix_show),
        Command("verify", "check an artifact against its hashes and a tokenizer", prefix_verify),
        Command("compare", "evaluate two prefixes on the same prompts and seeds", prefix_compare),
    ),
)


def _bound(artifact: PrefixArtifact, reasoner: str) -> PrefixArtifact:
    """Bind an artifact; the reasoner's weights are loaded for a soft one alone, which they decide on."""
    quiet_libraries()
    if artifact.kind == "soft":
        from safethink.guarded import SafeThink

        return SafeThink.from_pretrained(reasoner, prefix=artifact, defense=NoneConfig()).prefix
    from safethink import prefix
    from safethink.models.loading import load_tokenizer

    return prefix.bind(artifact, load_tokenizer(reasoner))
