"""Learning: from prompts on which a monitor fires to a corrective prefix that `safethink` loads.

The public names load on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optimize.pipeline.api import learn as learn

_HOMES = {"learn": "optimize.pipeline.api"}

__all__ = ["learn"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
