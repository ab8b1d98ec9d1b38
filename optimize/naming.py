"""What an artifact calls a model or a file: never by this machine's path to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from safethink.testbed.origin import origin


def short(path: str) -> str:
    """A hub id as it is, a file or a folder without the way to it; a trained testbed by its world."""
    if os.sep not in path or not os.path.exists(path):
        return path
    trained = origin(path)
    return Path(path).resolve().name if trained is None else f"testbed-{trained.kind}"


def portable(value: Any) -> Any:
    """A configuration's values, with what lies on this machine called by its name alone."""
    if isinstance(value, dict):
        return {key: portable(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [portable(each) for each in cast("list[Any]", value)]
    return short(value) if isinstance(value, str) else value
