"""Command-line flags from pydantic models: parsed and explained by argparse, validated by the models themselves."""

from __future__ import annotations

import re
import types
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import (
    Any,
    Final,
    Literal,
    NoReturn,
    Protocol,
    TypeAlias,
    Union,
    cast,
    get_args,
    get_origin,
    runtime_checkable,
)

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from safethink.config.yaml_config import bare, did_you_mean, members, tag
from safethink.errors import ConfigError

Shape: TypeAlias = Literal["switch", "one", "many", "pairs"]
"""Arity of a flag: nothing or a truth value, one word, any number of them, or keys and values in turn."""

POSITIONAL: Final = "positional"
"""Marks a field whose value stands alone: `prompt: Annotated[str, POSITIONAL]`."""

_TRUTH: Final = {"True": True, "true": True, "False": False, "false": False}
_NOTHING: Final = ("None", "null")
_NAMES: Final = {str: "TEXT", int: "INT", float: "FLOAT", bool: "{True,False}", Path: "PATH"}


@dataclass(frozen=True, slots=True)
class Flag:
    """One value that can be set on the command line.

    Attributes:
        key: its dotted key, as in the YAML file.
        annotation: its type.
        default: its value where the flag is left out; `PydanticUndefined` where it must be given.
        help: what it means.
        choices: the kinds that a section may be of, where that is what it sets.
        is_positional: whether its value stands alone.
        is_hidden: whether help leaves it out: whole sections, and all but the first of a list's like elements.
    """

    key: str
    annotation: Any
    default: object = None
    help: str = ""
    choices: tuple[str, ...] = ()
    is_positional: bool = False
    is_hidden: bool = False

    @property
    def shape(self) -> Shape:
        """Arity of the flag, from the type of its field."""
        plain = bare(self.annotation)
        if plain is bool:
            return "switch"
        origin = get_origin(plain)
        return "many" if origin in (tuple, list) else "pairs" if origin is dict else "one"

    @property
    def metavar(self) -> str:
        """Placeholder of the value in help."""
        if self.shape == "switch" and self.default is False:
            return ""
        if self.choices:
            return f"{{{','.join(self.choices)}}}"
        plain = bare(self.annotation)
        inner = get_args(plain)[0] if self.shape == "many" else plain
        name = "KEY VALUE" if self.shape == "pairs" else _named(inner)
        return f"{name}|None" if _is_optional(self.annotation) else name

    def is_truth(self, word: str) -> bool:
        """Whether a word behind a switch is its value."""
        return word in _TRUTH or (word in _NOTHING and _is_optional(self.annotation))

    def value(self, words: Sequence[str]) -> object:
        """Value parsed from the words after it; a word that does not fit is left as it is, for the model to refuse."""
        if len(words) == 1 and words[0] in _NOTHING and _is_optional(self.annotation):
            return None
        inner = get_args(bare(self.annotation))
        if self.shape == "many":
            return [_read(inner[0], word) for word in words]
        if self.shape == "pairs":
            if len(words) == 1:
                return _literal(words[0])
            keys, values = words[::2], words[1::2]
            if len(keys) != len(values):
                raise ConfigError(f"--{self.key} takes keys and values in turn: {keys[-1]!r} has no value")
            return {key: _read(inner[1], word) for key, word in zip(keys, values, strict=True)}
        return _read(bare(self.annotation), words[0])


@dataclass(frozen=True, slots=True)
class Group:
    """The flags of one section.

    Attributes:
        title: its dotted key, and its kind where it has one; empty for the top.
        summary: what it is.
        flags: its own, without those of sections inside it.
    """

    title: str
    summary: str
    flags: tuple[Flag, ...]


Values: TypeAlias = Mapping[str, object]


def groups(schema: type[BaseModel], values: Values | None, key: str = "", is_hidden: bool = False) -> Iterator[Group]:
    """All flags of a model, section by section: those of null sections too, and of every element of a list.

    Args:
        schema: the model.
        values: the defaults, which need not be valid yet; None for those of the model's fields.
        key: where it stands, as a dotted key.
        is_hidden: whether help leaves it out.
    """
    # A model that is a part of itself, as a combination of monitors is, has names for types until it is built again.
    schema.model_rebuild()
    own: list[Flag] = []
    inside: list[Group] = []
    for name, field in schema.model_fields.items():
        below = ".".join(part for part in (key, field.alias or name) if part)
        default = (values or {}).get(name, field.get_default(call_default_factory=True))
        default = default.model_dump() if isinstance(default, BaseModel) else default
        flag = Flag(
            below,
            field.annotation,
            default,
            field.description or "",
            is_positional=POSITIONAL in field.metadata,
            is_hidden=is_hidden or _model(field.annotation, default) is not None,
        )
        # The kind of a section is a flag of the union around it, which knows all kinds.
        if not (name == "kind" and get_origin(bare(field.annotation)) is Literal and key):
            own.append(flag)
        inside += _sections(flag, is_hidden)
    summary = " ".join(cleandoc(schema.__doc__ or "").partition("\n\n")[0].split())
    null = "Null, until one of its flags is set. " if values is None and key else ""
    yield Group(key, null + summary, tuple(own))
    yield from inside


def _sections(flag: Flag, is_hidden: bool) -> Iterator[Group]:
    """The groups of flags inside a value: of a section, of the elements of a list, of the values of a dictionary."""
    plain, value, key = bare(flag.annotation), flag.default, flag.key
    model = _model(plain, value)
    kinds = tuple(tag(member) for member in members(plain))
    if kinds:
        kind = "None" if model is None else tag(model)
        yield Group(key, flag.help, (Flag(f"{key}.kind", str, kind, flag.help, kinds, is_hidden=is_hidden),))
    if model is not None:
        yield from groups(model, cast("Values", value), key, is_hidden)
    elif isinstance(plain, type) and issubclass(plain, BaseModel):
        yield from groups(plain, None, key, is_hidden)
    elif isinstance(value, Mapping) and get_origin(plain) is dict:
        for name, element in cast("Values", value).items():
            item = Flag(f"{key}.{name}", get_args(plain)[-1], element, flag.help, is_hidden=is_hidden)
            if _model(item.annotation, element) is None:
                yield Group(key, "", (item,))
            yield from _sections(item, is_hidden)
    elif isinstance(value, tuple | list) and get_origin(plain) in (tuple, list):
        shown: set[type[BaseModel]] = set()
        for index, element in enumerate(cast("Sequence[object]", value)):
            item = Flag(f"{key}.{index}", get_args(plain)[0], element, flag.help)
            like = _model(item.annotation, element)
            if like is not None:
                yield from _sections(item, is_hidden or like in shown)
                shown.add(like)


def _model(annotation: Any, value: object) -> type[BaseModel] | None:
    """The model that a value is of; None where it is no section, or a null one, or one of an unknown kind."""
    if not isinstance(value, Mapping):
        return None
    plain, kind = bare(annotation), cast("Values", value).get("kind")
    if isinstance(plain, type) and issubclass(plain, BaseModel):
        return plain
    return next((member for member in members(plain) if tag(member) == kind), None)


class _Parser(ArgumentParser):
    """An `ArgumentParser` that raises instead of printing, and takes any number for a value."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog,
            description=description,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=SUPPRESS,
        )
        # argparse's own misses -1e-3 before Python 3.14, and would take it for a flag.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.replace("argument --", "--"))


class Flags:
    """The flags of a command, read from its words."""

    def __init__(self, prog: str, description: str, own: Iterable[Group], configuration: Iterable[Group] = ()) -> None:
        """Build the parser.

        Args:
            prog: how the command is called.
            description: what help begins with.
            own: flags of the command itself, spelled with hyphens.
            configuration: flags of its configuration, spelled as the keys are.
        """
        self._parser = _Parser(prog, _wrapped(description))
        self._flags: dict[str, Flag] = {}
        self._options: dict[str, str] = {}
        own = list(own)
        stand_alone = [flag for group in own for flag in group.flags if flag.is_positional]
        self._parser.usage = " ".join([prog, *(flag.key.upper() for flag in stand_alone), "[flags]"])
        for flag in stand_alone:
            self._parser.add_argument(flag.key, metavar=flag.key.upper(), help=_escaped(flag.help))
        for group in own:
            for flag in group.flags:
                self._add(flag, f"--{flag.key.replace('_', '-')}", self._parser)
        for title, (summary, flags) in _by_title(configuration).items():
            section = self._parser.add_argument_group(title or "configuration", _escaped(_wrapped(summary)))
            for flag in flags:
                self._add(flag, f"--{flag.key}", section)

    def help(self) -> str:
        """The text of `--help`, as wide as the terminal."""
        return self._parser.format_help().rstrip()

    def parse(self, words: Sequence[str]) -> dict[str, object]:
        """The values that were given, by dotted key.

        Raises:
            ConfigError: a flag that there is not, or one without its value.
        """
        found = vars(self._parser.parse_args(list(self._spelled(words))))
        out: dict[str, object] = {}
        for key, given in found.items():
            words = cast("list[str]", given) if isinstance(given, list) else [str(given)]
            out[key] = self._flags[key].value(words) if key in self._flags else given
        return out

    def _add(self, flag: Flag, option: str, place: _Takes) -> None:
        if flag.is_positional or flag.key in self._flags:
            return
        self._flags[flag.key] = flag
        self._options[spelled_as_key(option)] = option
        must = flag.default is PydanticUndefined
        default = "" if must else _told(flag.default)
        said = f"{flag.help} (default: {default})" if default else flag.help
        many = flag.shape in ("many", "pairs")
        place.add_argument(
            option,
            dest=flag.key,
            metavar=flag.metavar,
            help=SUPPRESS if flag.is_hidden else _escaped(said),
            nargs="*" if many else None,
            required=must and place is self._parser,
        )

    def _spelled(self, words: Sequence[str]) -> Iterator[str]:
        """The words with every flag as the parser knows it, and every switch with its value: `--json=True`."""
        rest = list(words)
        while rest:
            word = rest.pop(0)
            name, equals, value = word.partition("=")
            if not re.fullmatch(r"--[^\s\d]\S*", name):
                yield word
                continue
            known = spelled_as_key(name)
            is_off = known not in self._options
            known = re.sub(r"(^--|\.)no_", r"\1", known) if is_off else known
            flag = self._flags.get(spelled_as_key(known)[2:])
            if known not in self._options or flag is None or (is_off and flag.shape != "switch"):
                raise ConfigError(f"there is no flag {name}{did_you_mean(name, self._options.values())}")
            if flag.shape == "switch" and not equals:
                equals, value = "=", rest.pop(0) if rest and flag.is_truth(rest[0]) else "True"
            if is_off:
                value = str(not _TRUTH.get(value, True))
            yield f"{self._options[known]}{equals}{value}"


@runtime_checkable
class _Takes(Protocol):
    """A parser, or a group of one."""

    def add_argument(self, *names: str, **settings: Any) -> object:
        """Add a flag."""
        ...


def kinds(groups: Iterable[Group], words: Sequence[str]) -> dict[str, str]:
    """Kinds of sections that words choose, by dotted key: `--search.kind beam`, or with `=` between.

    Raises:
        ConfigError: there is no such kind.
    """
    choices = {flag.key: flag.choices for group in groups for flag in group.flags if flag.choices}
    parts = [part for word in words for part in word.split("=", 1)]
    out: dict[str, str] = {}
    for word, kind in pairwise(parts):
        key = spelled_as_key(word).removeprefix("--")
        if word.startswith("--") and key in choices and not kind.startswith("-"):
            if kind not in (*choices[key], *_NOTHING):
                known = ", ".join(choices[key])
                raise ConfigError(f"--{key}: {kind!r} is not one of {known}{did_you_mean(kind, choices[key])}")
            out[key] = kind
    return out


def _by_title(groups: Iterable[Group]) -> dict[str, tuple[str, list[Flag]]]:
    """Summaries and flags of sections; a section whose flags come in several groups stands once."""
    out: dict[str, tuple[str, list[Flag]]] = {}
    for group in groups:
        summary, flags = out.get(group.title, ("", []))
        if any(not flag.is_hidden for flag in group.flags):
            summary = group.summary or summary
        out[group.title] = summary, [*flags, *group.flags]
    return out


def spelled_as_key(name: str) -> str:
    """A flag with underscores for hyphens, which mean the same."""
    begin = "--" if name.startswith("--") else ""
    return begin + name.removeprefix("--").replace("-", "_")


def _is_optional(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType) and types.NoneType in get_args(annotation)


def _named(annotation: Any) -> str:
    plain = bare(annotation)
    if get_origin(plain) is Literal:
        return f"{{{','.join(map(str, get_args(plain)))}}}"
    return _NAMES.get(plain, "YAML")


def _read(annotation: Any, word: str) -> object:
    """A word as a value: YAML where the type is no single plain one, else left to the model."""
    plain = bare(annotation)
    return word if plain in _NAMES or get_origin(plain) is Literal else _literal(word)


def _escaped(text: str) -> str:
    """Text as argparse prints it, which formats help with %."""
    return text.replace("%", "%%")


def _literal(word: str) -> object:
    """A word as YAML has it; and numbers without a dot, such as 1e-3, which YAML takes for text."""
    try:
        value: object = yaml.safe_load(word)
    except yaml.YAMLError:
        return word
    if word in _NOTHING:
        return None
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
        return float(value)
    return value


def _told(value: object) -> str:
    """A default as help shows it; empty for sections, whose flags stand below with their own."""
    if isinstance(value, Mapping):
        return "" if value else "none"
    if isinstance(value, tuple | list):
        elements = cast("Sequence[object]", value)
        return "" if any(isinstance(each, Mapping) for each in elements) else " ".join(map(str, elements)) or "none"
    return str(value)


def _wrapped(text: str) -> str:
    """Paragraphs, as wide as help is."""
    width = get_terminal_size().columns - 2
    return "\n\n".join(fill(" ".join(part.split()), width) for part in cleandoc(text).split("\n\n"))
