"""The YAML files that ship with the package, found in a checkout and in an installed wheel alike."""

from __future__ import annotations

import os
from pathlib import Path

from safethink.config.yaml_config import did_you_mean
from safethink.errors import MissingFileError


def shipped_config(name: str, section: str = "run") -> Path:
    """Find a configuration by path or by the name of a shipped one.

    Args:
        name: path of a YAML file; or a shipped one's name, with its folder (`run/testbed`) or without (`testbed`).
        section: the folder that a name without one is looked up in.

    Raises:
        MissingFileError: if there is neither such a file nor such a name; lists the section's.
    """
    path = Path(name).expanduser()
    # Unlike Path's own, it takes a whole sentence for a name that no file has.
    if os.path.isfile(path):
        return path
    known = shipped_names()
    bare = name.removeprefix("configs/").removesuffix(".yaml")
    for candidate in (bare, f"{section}/{bare}"):
        if candidate in known:
            return configs_folder() / f"{candidate}.yaml"
    own = [each.partition("/")[2] for each in known if each.startswith(f"{section}/")]
    hint = did_you_mean(bare, known if "/" in bare else own)
    raise MissingFileError(f"no configuration {name!r}: neither a file nor one of {', '.join(own)}{hint}")


def example_config(section: str) -> str:
    """Name of the shipped configuration of a section whose values help shows: the testbed's, or its first."""
    names = [name for name in shipped_names() if name.startswith(f"{section}/")]
    return next((name for name in names if name == f"{section}/testbed"), names[0])


def shipped_names() -> tuple[str, ...]:
    """Names of all shipped configurations, with their folders."""
    folder = configs_folder()
    return tuple(sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")))


def configs_folder() -> Path:
    """Folder of the shipped configurations: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    return next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), package)
