"""The embedded default: a synthetic world, an exact oracle, and small models trained on it.

It verifies machinery and says nothing about real models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

REASONERS: Final = ("testbed", "testbed:null")
"""Names of the shipped reasoners, in place of a path: for the `planted` and the `null` world."""

CARD_FILE: Final = "card.json"


@dataclass(frozen=True)
class Folders:
    """Folders of a testbed's models.

    Attributes:
        root: folder that holds the model folders and `card.json`.
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
        """Model card: the training data and the metrics of the models."""
        return json.loads((self.root / CARD_FILE).read_text(encoding="utf-8"))


def is_shipped(path: str) -> bool:
    """Whether `path` names a shipped reasoner."""
    return path in REASONERS


def locate(path: str) -> str:
    """Turn the name of a shipped reasoner into its folder; any other path stays."""
    if not is_shipped(path):
        return path
    return str(folders().reasoner if path == "testbed" else folders().reasoner_null)


def folders() -> Folders:
    """The testbed that ships with the package."""
    return Folders(Path(__file__).parent / "weights")
