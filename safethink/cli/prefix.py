"""`safethink prefix`: looks at artifacts, checks them, and compares two."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from safethink.cli.flags import POSITIONAL
from safethink.cli.parsing import parse, parse_with_config
from safethink.cli.program import (
    REPORT_EXTRA,
    Command,
    CommandFlags,
    Program,
    RunFlags,
    metric_lines,
    quiet_hub,
    quiet_libraries,
    run_or_plan,
    show,
)
from safethink.config import EvalConfig, NoneConfig
from safethink.config.yaml_config import dump
from safethink.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from safethink.evaluation.compare import Comparison
    from safethink.prefix import PrefixArtifact

EVALUATION: Final = "testbed"
"""The shipped evaluation whose prompts two prefixes are compared on."""
DECISIVE: Final = ("recovery_rate", "lift", "asr", "accuracy", "over_refusal")
"""Metrics that `prefix show` prints without `--full`."""


class PrefixList(CommandFlags):
    """The prefixes that ship with the package."""


class PrefixShow(CommandFlags):
    """Print an artifact: its texts, what it was learned on, and its metrics."""

    path: Annotated[str, POSITIONAL]
    """Folder of an artifact, or name of a built-in prefix."""
    reasoner: str | None = None
    """Folder or hub id of a reasoner to bind it to: shows its token ids there, and whether it is transferred."""
    full: bool = False
    """Print all of it as YAML."""


class PrefixVerify(CommandFlags):
    """Check an artifact: schema, hashes, the round trip between text and token ids, and whether rows fit."""

    path: Annotated[str, POSITIONAL]
    """Folder of an artifact, or name of a built-in prefix."""
    reasoner: str = "testbed"
    """Folder or hub id of the reasoner that it must fit; the weights are read for a soft prefix alone."""


class PrefixCompare(RunFlags):
    """Evaluate two prefixes on the same prompts and seeds; run it again to go on where it was interrupted.

    CONFIG is an evaluation, `eval/testbed` where it is left out: its reasoner, its prompts and the defense of its row
    on trial. Writes what an evaluation writes, and comparison.json.
    """

    out: Path = Path("runs/compare")
    """Folder of the run."""


def prefix_list(argv: Sequence[str]) -> None:
    """`safethink prefix list`."""
    from safethink import prefix

    flags = parse(PrefixList, "safethink prefix list", argv)
    names = prefix.list_built_in()
    show(flags.as_json, lambda: list(names), lambda: "\n".join(names))


def prefix_show(argv: Sequence[str]) -> None:
    """`safethink prefix show`."""
    from safethink import prefix

    flags = parse(PrefixShow, "safethink prefix show", argv)
    quiet_hub()
    artifact = prefix.load(flags.path)
    if flags.reasoner is None:
        show(flags.as_json, lambda: artifact, lambda: dump(artifact).rstrip() if flags.full else _first(artifact))
        return
    bound = _bound(artifact, flags.reasoner)
    words = [f"{text!r}: token ids {list(ids)}" for text, ids in zip(bound.texts, bound.token_ids, strict=True)]
    told = dump(bound).rstrip() if flags.full else "\n".join([*words, _first(bound)])
    show(
        flags.as_json,
        lambda: bound.model_dump(mode="json") | {"transferred": bound.transferred},
        lambda: f"{told}\ntransferred: {str(bound.transferred).lower()}",
    )


def _first(artifact: PrefixArtifact) -> str:
    """Its texts and the metrics that decide: on `test` where it was evaluated there, else on validation."""
    found = (name for base in DECISIVE for name in (f"{base}_test", base) if name in artifact.metrics)
    chosen = {name: artifact.metrics[name] for name in list(found)[: len(DECISIVE)]}
    texts = [f"{artifact.name} ({artifact.kind}):", *(f"  {text!r}" for text in artifact.texts)]
    return "\n".join([*texts, *metric_lines(chosen), "--full prints all of it, and where it comes from"])


def prefix_verify(argv: Sequence[str]) -> None:
    """`safethink prefix verify`."""
    from safethink import prefix

    flags = parse(PrefixVerify, "safethink prefix verify", argv)
    quiet_hub()
    artifact = prefix.load(flags.path)
    bound = _bound(artifact, flags.reasoner)
    fits = "is transferred to" if bound.transferred else "fits"
    what = flags.reasoner if artifact.kind == "soft" else f"the tokenizer of {flags.reasoner}"
    rows = [f"{text!r} <-> {list(ids)}" for text, ids in zip(bound.texts, bound.token_ids, strict=True)]
    show(
        flags.as_json,
        lambda: {"name": artifact.name, "reasoner": flags.reasoner, "transferred": bound.transferred},
        lambda: "\n".join([*rows, f"{artifact.name}: {fits} {what}; hashes match"]),
    )


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

    from safethink.evaluation.plan import paired_config, plan

    paired = paired_config(a, b, config)

    def run() -> Comparison:
        from safethink.evaluation.compare import compare

        return compare(a, b, config, flags.out)

    def told(comparison: Comparison) -> RenderableType:
        from safethink.evaluation.compare import table

        return table(comparison)

    run_or_plan(flags, [paired], lambda: plan(paired, flags.probe), run, told, REPORT_EXTRA)


PREFIX = Program(
    "safethink prefix",
    "Prefix artifacts.",
    (
        Command("list", "names of the built-in prefixes", prefix_list),
        Command("show", "what an artifact holds", prefix_show),
        Command("verify", "check an artifact against its hashes and a tokenizer", prefix_verify),
        Command("compare", "evaluate two prefixes on the same prompts and seeds", prefix_compare, resumes=True),
    ),
)


def _bound(artifact: PrefixArtifact, reasoner: str) -> PrefixArtifact:
    """Bind an artifact; the reasoner's weights are loaded for a soft one alone, which they decide on."""
    quiet_libraries()
    if artifact.kind == "soft":
        from safethink.guarded import SafeThink

        return SafeThink.from_pretrained(reasoner, prefix=artifact, defense=NoneConfig()).prefix
    from safethink import prefix
    from safethink.models.checkpoint import Checkpoint

    return prefix.bind(artifact, Checkpoint(reasoner).tokenizer())
