"""SafeThink: a guarded reasoner that watches its trace and intervenes when it turns unsafe.

The public names load on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safethink.errors import SafeThinkError as SafeThinkError
    from safethink.guarded import SafeThink as SafeThink
    from safethink.prefix import PrefixArtifact as PrefixArtifact
    from safethink.prompts import Message as Message
    from safethink.prompts import Prompt as Prompt
    from safethink.runtime.result import Branch as Branch
    from safethink.runtime.result import Event as Event
    from safethink.runtime.result import Result as Result

_HOMES = {
    "Branch": "safethink.runtime.result",
    "Event": "safethink.runtime.result",
    "Message": "safethink.prompts",
    "PrefixArtifact": "safethink.prefix",
    "Prompt": "safethink.prompts",
    "Result": "safethink.runtime.result",
    "SafeThink": "safethink.guarded",
    "SafeThinkError": "safethink.errors",
}

__all__ = ["Branch", "Event", "Message", "PrefixArtifact", "Prompt", "Result", "SafeThink", "SafeThinkError"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
