"""Jailbreak templates that wrap the prompts of any benchmark.

A folder of PyRIT's YAML files, each with a `name`, its `parameters` and a `value` in Jinja with `{{ prompt }}`; or a
CSV `name,prompt` with `[INSERT PROMPT HERE]`, as Self-Reminder publishes them (Xie et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from safethink.benchmarks.text_files import csv_rows, read_text
from safethink.config import yaml_config
from safethink.errors import ConfigError, MissingFileError
from safethink.prompts import Message, Prompt

PLACEHOLDER: Final = "[INSERT PROMPT HERE]"
"""Mark of the request in a CSV of wrappers."""
PARAMETER: Final = "prompt"
"""Name of the request in a template."""


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A jailbreak template.

    Attributes:
        name: a cluster of the prompts that it wraps.
        template: in Jinja, with `{{ prompt }}`.
    """

    name: str
    template: str

    def around(self, text: str) -> str:
        """The template with the request in it; what the request holds is never read as a template."""
        return _JINJA.from_string(self.template).render({PARAMETER: text})


@dataclass(frozen=True, slots=True)
class Wrappers:
    """Jailbreak templates of one place.

    Attributes:
        wrappers: those that take a request and nothing else.
        notes: which were left out, and why.
    """

    wrappers: tuple[Wrapper, ...]
    notes: tuple[str, ...] = ()


_JINJA: Final = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def load(source: str) -> Wrappers:
    """The wrappers of a folder or a CSV.

    Raises:
        MissingFileError: it is not there.
        ConfigError: a file that is no wrapper (it is named), or none is left.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise MissingFileError(f"wrappers: {path}: No such file or directory")
    found = _of_folder(path) if path.is_dir() else _of_csv(path)
    if not found.wrappers:
        raise ConfigError(f"wrappers: {path}: no template takes a request; {'; '.join(found.notes) or 'no YAML files'}")
    return found


def wrap(prompts: Iterable[Prompt], wrappers: Iterable[Wrapper]) -> tuple[Prompt, ...]:
    """Every prompt in every wrapper: a jailbreak where it was harmful; clusters by request and by wrapper."""
    templates = tuple(wrappers)
    return tuple(_wrapped(prompt, wrapper) for prompt in prompts for wrapper in templates)


def _wrapped(prompt: Prompt, wrapper: Wrapper) -> Prompt:
    last = max(place for place, message in enumerate(prompt.messages) if message.role == "user")
    inside = Message(role="user", content=wrapper.around(prompt.messages[last].content))
    return prompt.replace(
        id=f"{prompt.id}@{wrapper.name}",
        messages=(*prompt.messages[:last], inside, *prompt.messages[last + 1 :]),
        kind="jailbreak" if prompt.kind == "harmful" else prompt.kind,
        clusters={"group": prompt.clusters.get("group", prompt.id), "wrapper": wrapper.name},
    )


def _of_folder(folder: Path) -> Wrappers:
    wrappers: dict[str, Wrapper] = {}
    others: list[str] = []
    for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        values = _values(file)
        name, template, parameters = (values.get(key) for key in ("name", "value", "parameters"))
        name = str(name or file.stem)
        if parameters != [PARAMETER]:
            others.append(name)
            continue
        if not isinstance(template, str):
            raise ConfigError(f"{file}: value: expected a template, in text")
        if name in wrappers:
            name = file.relative_to(folder).with_suffix("").as_posix()
        wrappers[name] = _checked(Wrapper(name, template), str(file))
    note = f"{len(others)} templates left out, which take more or less than a prompt: {', '.join(others[:5])}"
    return Wrappers(tuple(wrappers.values()), (note + (", …" if len(others) > 5 else ""),) if others else ())


def _values(file: Path) -> dict[str, object]:
    try:
        values = yaml_config.read(read_text(file))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: expected `name`, `parameters` and `value`")
    return cast("dict[str, object]", values)


def _of_csv(path: Path) -> Wrappers:
    wrappers: dict[str, Wrapper] = {}
    without: list[str] = []
    for name, text, place in _cells(path):
        if PLACEHOLDER not in text:
            without.append(name)
            continue
        if name in wrappers:
            raise ConfigError(f"{place}: the wrapper {name!r} stands twice")
        quoted = "{% raw %}" + text.replace(PLACEHOLDER, "{% endraw %}{{ prompt }}{% raw %}") + "{% endraw %}"
        wrappers[name] = _checked(Wrapper(name, quoted), place)
    note = f"{len(without)} wrappers without {PLACEHOLDER} left out: {', '.join(without[:5])}"
    return Wrappers(tuple(wrappers.values()), (note,) if without else ())


def _cells(path: Path) -> Iterator[tuple[str, str, str]]:
    for place, values in csv_rows(path):
        if "prompt" not in values:
            raise ConfigError(f"wrappers: {path}: no column 'prompt'; a folder of PyRIT's YAML files is read too")
        yield str(values.get("name") or place.row), str(values["prompt"]), str(place)


def _checked(wrapper: Wrapper, source: str) -> Wrapper:
    mark = "\N{OBJECT REPLACEMENT CHARACTER}"
    try:
        filled = wrapper.around(mark)
    except TemplateError as error:
        raise ConfigError(f"{source}: no template: {error}") from error
    if mark not in filled:
        raise ConfigError(f"{source}: the template has no place for {{{{ prompt }}}}")
    return wrapper
