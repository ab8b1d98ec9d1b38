"""The folder of a run: made once, resumed by the same configuration, refused to any other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

from safethink import yaml_config
from safethink.config import EvalConfig
from safethink.errors import ConfigError, MissingFileError
from safethink.evaluation.records import write_text, writing

CONFIG, RECORDS, SUMMARY, REPORT = "config.yaml", "records.jsonl", "summary.json", "report.html"

_ABSENT: Final = "absent"


def claim(folder: Path, config: EvalConfig) -> None:
    """Make `folder` the home of a run, or find it to be the home of the same run.

    A run that stopped before its first record, at a misspelt prefix for instance, has no claim to it.

    Raises:
        ConfigError: another configuration lives there; what differs is named.
        RecordError: the folder cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / RECORDS).exists() and (folder / RECORDS).stat().st_size > 0
    if begun and (folder / CONFIG).exists():
        _refuse_other(folder / CONFIG, config)
    elif begun:
        raise ConfigError(f"{folder} has {RECORDS} but no {CONFIG}: whose records they are cannot be told")
    else:
        write_text(folder / CONFIG, yaml_config.dump(config))


def read_config(folder: Path) -> EvalConfig:
    """Read the configuration of a run.

    Raises:
        MissingFileError: there is none.
        ConfigError: it is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise MissingFileError(f"{folder} is no run: it has no {CONFIG}")
    return yaml_config.load(EvalConfig, path)


def _refuse_other(path: Path, config: EvalConfig) -> None:
    there, here = (dict(_flat(each.model_dump(mode="json"))) for each in (read_config(path.parent), config))
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key, _ABSENT), here.get(key, _ABSENT)
        if old != new:
            raise ConfigError(
                f"{path} belongs to another run: {key} is {old!r} there and {new!r} here; use another --out"
            )


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
