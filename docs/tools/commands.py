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
from pydantic import BaseModel, Field

from optimize import cli as optimize_cli
from optimize.ablation.config import AblationConfig
from optimize.config import CollectConfig, SearchConfig
from optimize.monitors.config import TrainMonitorConfig
from optimize.reasoners.config import ReasonerTrainingConfig
from optimize.study.config import StudyConfig
from safethink.cli import main as safethink_cli
from safethink.config import CalibrateConfig, EvalConfig, RunConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import SafeThinkError
from safethink.frozen import Frozen

SHORT: Final = Path(__file__).with_name("short.yaml")
PROGRAMS: Final = {"safethink": safethink_cli.PROGRAM, "safethink-optimize": optimize_cli.PROGRAM}
"""The programs by name."""


@dataclass(frozen=True, slots=True)
class Configured:
    """A command that takes a configuration.

    Attributes:
        schema: what the configuration must fit.
        section: the folder of shipped ones.
        place: the number of words that stand before it.
    """

    schema: type[BaseModel]
    section: str
    place: int = 0


CONFIGURED: Final[Mapping[str, Configured]] = {
    "safethink generate": Configured(RunConfig, "run"),
    "safethink inspect": Configured(RunConfig, "run"),
    "safethink evaluate": Configured(EvalConfig, "eval"),
    "safethink calibrate": Configured(CalibrateConfig, "run"),
    "safethink prefix compare": Configured(EvalConfig, "eval", place=2),
    "safethink-optimize contexts": Configured(CollectConfig, "contexts"),
    "safethink-optimize search": Configured(SearchConfig, "search"),
    "safethink-optimize ablate": Configured(AblationConfig, "ablate"),
    "safethink-optimize study": Configured(StudyConfig, "study"),
    "safethink-optimize monitor": Configured(TrainMonitorConfig, "monitor"),
    "safethink-optimize reasoner": Configured(ReasonerTrainingConfig, "reasoner"),
}
"""The commands that take a configuration, by name."""


class ShortForm(Frozen):
    """Changes that make a long command a short one."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Values of its configuration, by dotted key; keys that it does not have are passed over."""
    flags: tuple[str, ...] = ()
    """Words put behind it."""


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
        place = CONFIGURED[self.name].place
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
        if words and words[0] in PROGRAMS:
            depth = 3 if words[1:2] == ["prefix"] else 2
            yield Call(" ".join(words[:depth]), tuple(words[depth:]))


@cache
def known_flags(name: str) -> frozenset[str] | None:
    """The flags in the help of a command, such as `safethink prefix show`; None where there is no such command."""
    program, *words = name.split()
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()), suppress(SystemExit):
        if PROGRAMS[program].main([*words, "--help"]):
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

    Args:
        script: the script.
        folder: where YAML files that the page writes lie.
        smaller: where the smaller configurations go.
    """
    lines = script.replace("\\\n", " ").splitlines()
    return "\n".join(_shortened(line, folder, smaller) for line in lines)


@cache
def short_forms() -> Mapping[str, ShortForm]:
    """The short forms of `short.yaml`, by command, or by command and configuration.

    Raises:
        pydantic.ValidationError: one of them has a key that means nothing.
    """
    found: dict[str, Any] = yaml.safe_load(SHORT.read_text(encoding="utf-8"))
    return {name: ShortForm.model_validate(changes) for name, changes in found.items()}


def _shortened(line: str, folder: Path, smaller: Path) -> str:
    call = next(calls(line), None)
    if call is None:
        return line
    short = short_forms().get(f"{call.name} {call.config_name}") or short_forms().get(call.name)
    if short is None:
        return line
    words = list(call.words)
    if short.set:
        place = CONFIGURED[call.name].place
        path = smaller / f"{Path(call.config_name or 'testbed').stem}.yaml"
        loaded = _load(replace(call, words=call.words[: place + 1]), folder)
        known = {key: value for key, value in short.set.items() if _has(loaded, key)}
        path.write_text(yaml_config.dump(yaml_config.override(loaded, known, str(SHORT))), encoding="utf-8")
        words[place : place + (call.config_name is not None)] = [str(path)]
    return f"{call.name} {shlex.join([*words, *short.flags])}"


def _spelled(flag: str) -> str:
    return flag.replace("_", "-")


def _load(call: Call, folder: Path) -> BaseModel:
    command = CONFIGURED[call.name]
    name = call.config_name or "testbed"
    written = folder / name
    path = written if written.is_file() else shipped_config(name, command.section)
    config = yaml_config.load(command.schema, path, command.section)
    return yaml_config.override(config, call.settings, call.name)


def _has(config: BaseModel, key: str) -> bool:
    """Whether a configuration has a dotted key: the methods of a search do not all have the same ones."""
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, BaseModel) or name not in type(value).model_fields:
            return False
        value = getattr(value, name)
    return True
