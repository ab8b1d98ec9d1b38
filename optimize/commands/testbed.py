"""`safethink-optimize testbed`."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safethink import errors
from safethink.cli.program import parse, quiet_libraries


@dataclass(frozen=True)
class World:
    """The world that the models are trained on; a run's `world` must match that of its models."""

    kind: Literal["planted", "hackable", "costly"] = "planted"
    """`hackable`: some words make drift look safe to the guard; `costly`: the strongest words make borderline prompts
    refused. Both train their reasoner alone, in half the time, and are measured with the shipped guard."""
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


def testbed(argv: Sequence[str]) -> None:
    """`safethink-optimize testbed`."""
    flags = parse(Testbed, "safethink-optimize testbed", argv)
    errors.require("report", "scipy")
    quiet_libraries()
    from optimize.testbed import train

    card = jsonlib.loads(train(flags.out, flags.world.seed, flags.world.kind).read_text(encoding="utf-8"))
    print(jsonlib.dumps(card, indent=None if flags.json else 2, ensure_ascii=False))
