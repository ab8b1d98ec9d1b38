"""Weights that ship with the package, by name: the testbed's, and what belongs to the small reasoner."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safethink import testbed

ADAPTERS: Final = ("smollm2-reasoner",)
"""Names of the shipped adapters, in place of a path; their bases do not ship."""
PROBES: Final = ("smollm2-probe",)
"""Names of the shipped probes on the states of these reasoners."""


def located(path: str) -> str:
    """Turn the name of what ships into its folder; any other path stays."""
    if path in (*ADAPTERS, *PROBES):
        return str(Path(__file__).parent / "weights" / path)
    return testbed.locate(path)
