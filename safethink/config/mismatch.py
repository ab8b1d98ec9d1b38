"""Refusal of what was made by other settings: names the first key that differs, with both values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeAlias, cast

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from safethink.errors import ConfigError

Settings: TypeAlias = BaseModel | Mapping[str, object]
"""A configuration, or values by key."""

_ABSENT: Final = "absent"
_WHEREABOUTS: Final = frozenset({"urls", "api_key_env", "timeout_s", "max_retries", "max_concurrency"})
"""Keys of a `server` section outside a run's identity (address, patience): a run may go on at another address."""


def refuse_other(
    place: object, begun: Settings, now: Settings, owner: str = "another run", remedy: str = "use another --out"
) -> None:
    """Refuse to go on in a place that was begun with other settings; the address of a server may have changed.

    Args:
        place: the file, folder or database that `begun` stands in.
        begun: what it was begun with.
        now: what it is to go on with.
        owner: what it belongs to if they differ.
        remedy: what the user can do then.

    Raises:
        ConfigError: they differ; names the first key and both values.
    """
    said = _first_difference(begun, now, _is_whereabouts)
    if said is not None:
        raise ConfigError(f"{place} belongs to {owner}: {said}; {remedy}")


def other_settings(
    place: object, begun: Settings | None, now: Settings, owner: str, remedy: str = "use another --out"
) -> str:
    """Message that refuses what is known to differ, by a hash of its settings for instance.

    Args:
        place: as of `refuse_other`.
        begun: what it was begun with; None where that was not written down.
        now: what it is to go on with.
        owner: as of `refuse_other`.
        remedy: as of `refuse_other`.
    """
    said = None if begun is None else _first_difference(begun, now)
    return f"{place} belongs to {owner}: {said or 'by which setting was not written down'}; {remedy}"


def _first_difference(begun: Settings, now: Settings, passes: Callable[[str], bool] = lambda _: False) -> str | None:
    """The first dotted key, in the order of `now`, whose value differs and does not pass; None where there is none."""
    there, here = (dict(_flat(to_jsonable_python(each))) for each in (begun, now))
    for key in here | there:
        old, new = there.get(key, _ABSENT), here.get(key, _ABSENT)
        if old != new and not passes(key):
            return f"{key} is {old!r} there and {new!r} here"
    return None


def _is_whereabouts(key: str) -> bool:
    _, is_server, setting = key.rpartition("server.")
    return bool(is_server) and setting.partition(".")[0] in _WHEREABOUTS


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of nested mappings and lists, by dotted name."""
    children: list[tuple[object, object]]
    if isinstance(value, dict):
        children = list(cast("dict[object, object]", value).items())
    elif isinstance(value, list):
        children = list(enumerate(cast("list[object]", value)))
    else:
        yield name, value
        return
    for key, child in children:
        yield from _flat(child, f"{name}.{key}" if name else str(key))
