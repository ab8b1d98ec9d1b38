"""`safethink-optimize`: learns. Help and validation load no torch; models load when a command needs them."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from optimize.config import SearchConfig
from safethink import extras
from safethink.commandline import Command, Program, console, parse, parse_with_config, quiet_libraries

EXAMPLES = """examples:
  safethink-optimize search testbed-gcg --out runs/gcg
  safethink-optimize search configs/search/testbed-gcg.yaml --out runs/gcg --search.length 6 --dry-run
  safethink-optimize testbed --out runs/testbed --world.seed 1
  safethink-optimize testbed --out runs/hackable --world.kind hackable
  safethink-optimize demo --out runs/demo

CONFIG is a YAML file or the name of a shipped one; each of its keys is also a flag with dots in it, and
`safethink-optimize COMMAND CONFIG --help` lists them with the file's values."""


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


@dataclass(frozen=True)
class World:
    """The world that the models are trained on; a run's `world` must match that of its models."""

    kind: Literal["planted", "hackable", "costly"] = "planted"
    """`hackable`: some words make drift look safe to the guard; `costly`: the strongest words make borderline prompts
    refused. Both train their reasoner alone, in a third of the time, and are measured with the shipped guard."""
    seed: int = 0
    """Fixes its dynamics."""


@dataclass(frozen=True)
class Testbed:
    """Train the testbed's reasoners and guard, about half an hour on two cores, and write a card that measures them.

    Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/testbed")
    """Receives the folders `reasoner`, `reasoner_null` and `guard`, or `reasoner` alone, and card.json."""
    world: World = World()
    json: bool = False
    """Print the card and nothing else."""


@dataclass(frozen=True)
class Demo:
    """The main job on the testbed: learn a prefix, export it, guard the reasoner with it, report.

    Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/demo")
    """Folder of the run."""
    json: bool = False
    """Print the summary as JSON and nothing else."""


def search(argv: Sequence[str]) -> None:
    """`safethink-optimize search`."""
    flags, config = parse_with_config(Search, SearchConfig, "search", "safethink-optimize search", argv)
    if flags.dry_run:
        from optimize.plan import plan
        from safethink.yaml_config import dump

        planned = plan(config)
        print(planned.model_dump_json() if flags.json else dump(config, planned))
        return
    extras.require("report", "scipy")
    quiet_libraries()
    from optimize.api import search_command
    from optimize.learning import ARTIFACT

    artifact = search_command(config, flags.out)
    if flags.json:
        print(artifact.model_dump_json())
        return
    for text in artifact.texts:
        print(repr(text))
    for name, metric in artifact.metrics.items():
        print(f"{name:<24} {metric.value:.3f}  [{metric.low:.3f}, {metric.high:.3f}]  n = {metric.n}")
    print(f"artifact: {flags.out / ARTIFACT}")


def testbed(argv: Sequence[str]) -> None:
    """`safethink-optimize testbed`."""
    flags = parse(Testbed, "safethink-optimize testbed", argv)
    extras.require("report", "scipy")
    quiet_libraries()
    from optimize.testbed import train

    card = jsonlib.loads(train(flags.out, flags.world.seed, flags.world.kind).read_text(encoding="utf-8"))
    print(jsonlib.dumps(card, indent=None if flags.json else 2, ensure_ascii=False))


def demo(argv: Sequence[str]) -> None:
    """`safethink-optimize demo`."""
    flags = parse(Demo, "safethink-optimize demo", argv)
    extras.require("report", "scipy", "plotly")
    quiet_libraries()
    from optimize.demo import run
    from safethink.evaluation.table import table

    summary = run(flags.out)
    if flags.json:
        print(summary.model_dump_json())
        return
    console().print(table(summary))
    print(f"report: {flags.out / 'report.html'}")


PROGRAM = Program(
    "safethink-optimize",
    "Learns corrective prefixes, and trains the testbed's models.",
    (
        Command("search", "learn a prefix and export it as an artifact", search),
        Command("testbed", "train the testbed's models from a seed", testbed),
        Command("demo", "learn, export, guard and report, end to end on the testbed", demo),
    ),
    EXAMPLES,
)


def main() -> None:
    """Entry point of `safethink-optimize`."""
    sys.exit(PROGRAM.main())
