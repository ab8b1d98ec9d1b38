"""The command lines of the documents: split into words, checked against configurations, cut to their short form."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from optimize import cli as optimize_cli
from optimize.ablation.config import AblationConfig
from optimize.config import CollectConfig, SearchConfig
from optimize.monitors.config import TrainMonitorConfig
from optimize.study.config import StudyConfig
from safethink.cli import main as safethink_cli
from safethink.config import EvalConfig, RunConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import SafeThinkError

SHORT: Final = Path(__file__).with_name("short.yaml")
MAINS: Final = {"safethink": safethink_cli.PROGRAM, "safethink-optimize": optimize_cli.PROGRAM}
"""The programs by name."""
CONFIGURED: Final[Mapping[str, tuple[type[BaseModel], str, int]]] = {
    "safethink generate": (RunConfig, "run", 0),
    "safethink inspect": (RunConfig, "run", 0),
    "safethink evaluate": (EvalConfig, "eval", 0),
    "safethink calibrate": (RunConfig, "run", 0),
    "safethink prefix compare": (EvalConfig, "eval", 2),
    "safethink-optimize contexts": (CollectConfig, "contexts", 0),
    "safethink-optimize search": (SearchConfig, "search", 0),
    "safethink-optimize ablate": (AblationConfig, "ablate", 0),
    "safethink-optimize study": (StudyConfig, "study", 0),
    "safethink-optimize monitor": (TrainMonitorConfig, "monitor", 0),
}
"""Commands that take a configuration: its schema, the folder of shipped ones, and the words before it."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the two programs.

    Attributes:
        name: the program and its command, such as `safethink prefix show`.
        words: what follows.
    """

    name: str
    words: tuple[str, ...]

    @property
    def config_name(self) -> str | None:
        """The configuration that it names; None where it takes none or leaves it to the default."""
        if self.name not in CONFIGURED:
            return None
        place = CONFIGURED[self.name][2]
        named = len(self.words) > place and not self.words[place].startswith("-")
        return self.words[place] if named else None

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags that are no keys of a configuration."""
        flags = (word.partition("=")[0] for word in self.words if word.startswith("--"))
        return tuple(_spelled(flag) for flag in flags if "." not in flag)

    @property
    def settings(self) -> dict[str, Any]:
        """Values of its dotted flags, by key."""
        values: dict[str, list[Any]] = {}
        key = None
        for word in self.words:
            if word.startswith("--"):
                key = word.removeprefix("--") if "." in word else None
                if key is not None:
                    values[key] = []
            elif key is not None:
                values[key].append(yaml.safe_load(word))
        return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


def calls(script: str) -> Iterator[Call]:
    """The calls in a shell script, one a line; other commands are passed over.

    Raises:
        ValueError: a quotation that does not close.
    """
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] in MAINS:
            depth = 3 if words[1:2] == ["prefix"] else 2
            yield Call(" ".join(words[:depth]), tuple(words[depth:]))


@cache
def known_flags(name: str) -> frozenset[str] | None:
    """The flags in the help of a command, such as `safethink prefix show`; None where there is no such command."""
    program, *words = name.split()
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()), suppress(SystemExit):
        if MAINS[program].main([*words, "--help"]):
            return None
    return frozenset(map(_spelled, re.findall(r"--[a-z][\w.-]*", printed.getvalue())))


def problem(call: Call, folder: Path) -> str | None:
    """Mistake in the configuration that a call names or in its dotted flags; None where there is none.

    Args:
        call: the call.
        folder: where YAML files that the page writes lie.
    """
    if call.name not in CONFIGURED:
        return None
    try:
        _load(call, folder)
    except SafeThinkError as error:
        return str(error)
    return None


def short_form(script: str, folder: Path, smaller: Path) -> str:
    """The script with the configuration of every long call replaced by a smaller one.

    `short.yaml` says by command which keys become what, and which flags are added.

    Args:
        script: the script.
        folder: where YAML files that the page writes lie.
        smaller: where the smaller configurations go.
    """
    short: dict[str, dict[str, Any]] = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    lines = script.replace("\\\n", " ").splitlines()
    return "\n".join(_shortened(line, short, folder, smaller) for line in lines)


def _shortened(line: str, short: Mapping[str, dict[str, Any]], folder: Path, smaller: Path) -> str:
    call = next(calls(line), None)
    cut = {} if call is None else short.get(f"{call.name} {call.config_name}") or short.get(call.name, {})
    if call is None or not cut:
        return line
    words = list(call.words)
    if "set" in cut:
        place = CONFIGURED[call.name][2]
        path = smaller / f"{Path(call.config_name or 'testbed').stem}.yaml"
        loaded = _load(replace(call, words=call.words[: place + 1]), folder)
        known = {key: value for key, value in cut["set"].items() if _has(loaded, key)}
        path.write_text(yaml_config.dump(yaml_config.override(loaded, known, str(SHORT))), encoding="utf-8")
        words[place : place + (call.config_name is not None)] = [str(path)]
    return f"{call.name} {shlex.join([*words, *cut.get('flags', [])])}"


def _spelled(flag: str) -> str:
    return flag.replace("_", "-")


def _load(call: Call, folder: Path) -> BaseModel:
    schema, section, _ = CONFIGURED[call.name]
    name = call.config_name or "testbed"
    written = folder / name
    config = yaml_config.load(schema, written if written.is_file() else shipped_config(name, section))
    return yaml_config.override(config, call.settings, call.name)


def _has(config: BaseModel, key: str) -> bool:
    """Whether a configuration has a dotted key: the methods of a search do not all have the same ones."""
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, BaseModel) or name not in type(value).model_fields:
            return False
        value = getattr(value, name)
    return True
