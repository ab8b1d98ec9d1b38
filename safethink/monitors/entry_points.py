"""Monitors of other packages, found by their entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, cast

from safethink.config.yaml_config import did_you_mean
from safethink.errors import ConfigError
from safethink.monitors import Monitor

GROUP: Final = "safethink.monitors"
"""Where packages announce their monitors, in `[project.entry-points."safethink.monitors"]` of pyproject.toml."""


def load(name: str, options: Mapping[str, Any]) -> Monitor:
    """Build the monitor that another package calls `name`.

    Args:
        name: of an entry point in `GROUP`; it names a class or function that returns a monitor.
        options: keyword arguments for it.

    Raises:
        ConfigError: there is none or several of that name, or it does not load, or what it makes is no monitor; nothing
            is passed over.
    """
    entry = _find(name)
    try:
        factory = cast("Callable[..., object]", entry.load())
        monitor = factory(**options)
    # Whatever another package raises must stop the run, with the entry point named.
    except Exception as error:
        raise ConfigError(
            f"monitor {name!r} ({entry.value}) failed to load: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(monitor, Monitor):
        raise ConfigError(
            f"monitor {name!r} ({entry.value}) made a {type(monitor).__name__}, which has no `score` and `release`"
        )
    return monitor


def _find(name: str) -> EntryPoint:
    known = entry_points(group=GROUP)
    found = [entry for entry in known if entry.name == name]
    if not found:
        names = sorted({entry.name for entry in known})
        there_are = f"there are {', '.join(names)}" if names else "no package has any"
        raise ConfigError(
            f"no monitor {name!r} among the entry points {GROUP!r}: {there_are}{did_you_mean(name, names)}"
        )
    if len({entry.value for entry in found}) > 1:
        raise ConfigError(f"monitor {name!r} is announced by several packages: {', '.join(e.value for e in found)}")
    return found[0]
