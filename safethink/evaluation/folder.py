"""The folder of a run: made once, resumed by the same configuration and models, refused to any other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from pydantic import BaseModel

from safethink.config import EvalConfig, yaml_config
from safethink.errors import ConfigError, MissingFileError
from safethink.files import write_text, writing

CONFIG, MODELS, RECORDS = "config.yaml", "models.json", "records.jsonl"
SUMMARY, REPORT = "summary.json", "report.html"

_ABSENT: Final = "absent"
_WHEREABOUTS: Final = frozenset({"urls", "api_key_env", "timeout_s", "max_retries", "max_concurrency"})
"""Keys of a `server` section outside a run's identity (address, patience): a run may go on at another address."""


def claim(folder: Path, config: EvalConfig) -> None:
    """Make `folder` the home of a run, or find it to be the home of the same run.

    A run that stopped before its first record, at a misspelt prefix for instance, has no claim to it.

    Raises:
        ConfigError: another configuration lives there, and what differs is named; or files that are no run's.
        RecordError: the folder cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if _has_begun(folder) and (folder / CONFIG).exists():
        refuse_other(folder / CONFIG, read_config(folder), config)
    elif _has_begun(folder):
        raise ConfigError(f"{folder} has {RECORDS} but no {CONFIG}: whose records they are cannot be told")
    elif not (folder / CONFIG).exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} holds other files and no {CONFIG}: use another --out")
    else:
        write_text(folder / CONFIG, yaml_config.dump(config))


def claim_models(folder: Path, models: Mapping[str, str]) -> None:
    """Note which models a run is made with, or find that they are still the same.

    Args:
        folder: of the run, claimed already.
        models: hash of the weights of each, by what it does.

    Raises:
        ConfigError: the run was begun with other weights; the model is named.
        RecordError: the file cannot be written.
    """
    path = folder / MODELS
    if not _has_begun(folder):
        write_text(path, json.dumps(models, indent=2) + "\n")
        return
    there = cast("dict[str, str]", json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    other = next((name for name in sorted(there.keys() | models.keys()) if there.get(name) != models.get(name)), None)
    if other is not None:
        raise ConfigError(f"{path}: the weights of the {other} are not those the run began with; use another --out")


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


def _has_begun(folder: Path) -> bool:
    return (folder / RECORDS).exists() and (folder / RECORDS).stat().st_size > 0


def refuse_other(path: Path, begun: BaseModel, config: BaseModel) -> None:
    """Refuse to go on in a folder that was begun with another configuration.

    Args:
        path: the file that `begun` stands in.
        begun: what the folder was begun with.
        config: what it is to go on with; the address of a server may have changed.

    Raises:
        ConfigError: they differ; names the first key and both values.
    """
    there, here = (dict(_flat(each.model_dump(mode="json"))) for each in (begun, config))
    for key in sorted(there.keys() | here.keys()):
        old, new = there.get(key, _ABSENT), here.get(key, _ABSENT)
        if old != new and not _is_whereabouts(key):
            raise ConfigError(
                f"{path} belongs to another run: {key} is {old!r} there and {new!r} here; use another --out"
            )


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
