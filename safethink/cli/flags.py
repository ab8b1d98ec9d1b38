"""Command-line flags of pydantic models: one per field, section by section, and the values that words give them."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel

from safethink.config.yaml_config import bare, members, tag
from safethink.config.yaml_config import read as read_yaml
from safethink.errors import ConfigError

Shape: TypeAlias = Literal["switch", "one", "many", "pairs"]
"""Arity of a flag: nothing or a truth value, one word, any number of them, or keys and values in turn."""

POSITIONAL: Final = "positional"
"""Marks a field whose value stands alone: `prompt: Annotated[str, POSITIONAL]`."""

TRUTH: Final = {"True": True, "true": True, "False": False, "false": False}
"""Truth values by their words."""
NULL: Final = ("None", "null")
"""The words for null."""
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
        return word in TRUTH or (word in NULL and _is_optional(self.annotation))

    def value(self, words: Sequence[str]) -> object:
        """Value parsed from the words after it; a word that does not fit is left as it is, for the model to refuse."""
        if len(words) == 1 and words[0] in NULL and _is_optional(self.annotation):
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


def flag_groups(
    schema: type[BaseModel], values: Values | None, key: str = "", is_hidden: bool = False
) -> Iterator[Group]:
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
        kind = value if model is None else tag(model)
        yield Group(key, flag.help, (Flag(f"{key}.kind", str, kind, flag.help, kinds, is_hidden=is_hidden),))
    if model is not None:
        yield from flag_groups(model, cast("Values", value), key, is_hidden)
    elif isinstance(plain, type) and issubclass(plain, BaseModel):
        yield from flag_groups(plain, None, key, is_hidden)
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


def _literal(word: str) -> object:
    """A word as YAML has it; and numbers without a dot, such as 1e-3, which YAML takes for text."""
    try:
        value = read_yaml(word)
    except yaml.YAMLError:
        return word
    if word in NULL:
        return None
    if isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
        return float(value)
    return value
