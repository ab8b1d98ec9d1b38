"""The embedded default: a synthetic world, an exact oracle, and small models trained on it.

It verifies machinery and says nothing about real models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from safethink.errors import ConfigError

REASONERS: Final = ("testbed", "testbed:null")
"""What the shipped reasoners are called where a path is asked for: for the `planted` and the `null` world."""


@dataclass(frozen=True)
class Folders:
    """Where a testbed's models are.

    Attributes:
        root: folder that holds the three model folders and `card.json`.
    """

    root: Path

    @property
    def reasoner(self) -> Path:
        """The reasoner of the `planted` world."""
        return self.root / "reasoner"

    @property
    def reasoner_null(self) -> Path:
        """The reasoner of the `null` world, where every phrase is worth the same."""
        return self.root / "reasoner_null"

    @property
    def guard(self) -> Path:
        """The guard."""
        return self.root / "guard"

    @cached_property
    def card(self) -> dict[str, Any]:
        """What the models were trained on and how they measured."""
        return json.loads((self.root / "card.json").read_text(encoding="utf-8"))


def is_testbed(path: str) -> bool:
    """Whether `path` names a shipped reasoner."""
    return path in REASONERS


def require_world(seed: int) -> None:
    """Make sure that the shipped reasoners have the dynamics of `world.seed`.

    Raises:
        ConfigError: they were trained on another world.
    """
    trained = folders().card["world_seed"]
    if seed != trained:
        raise ConfigError(f"world.seed is {seed}, but the shipped weights were trained on {trained}")


def folders() -> Folders:
    """The testbed that ships with the package."""
    return Folders(Path(__file__).parent / "weights")
