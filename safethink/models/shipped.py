"""Reasoners that ship with the package, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safethink import testbed

ADAPTERS: Final = ("smollm2-reasoner",)
"""Names of the shipped adapters, in place of a path; their bases do not ship."""


def located(path: str) -> str:
    """Turn the name of what ships, of the testbed or an adapter, into its folder; any other path stays."""
    if path in ADAPTERS:
        return str(Path(__file__).parent / "weights" / path)
    return testbed.locate(path)
