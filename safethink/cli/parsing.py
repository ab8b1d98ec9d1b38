"""A command's words parsed by argparse: its own flags, and those that override its configuration."""

from __future__ import annotations

import re
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from itertools import pairwise
from shutil import get_terminal_size
from textwrap import fill
from typing import Any, Final, NoReturn, TypeVar, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from safethink.cli.flags import NULL, TRUTH, Flag, Group, flag_groups
from safethink.config import yaml_config
from safethink.config.yaml_config import did_you_mean, example_config, shipped_config
from safethink.errors import ConfigError

Parsed = TypeVar("Parsed", bound=BaseModel)
Schema = TypeVar("Schema", bound=BaseModel)

_FLAG: Final = re.compile(r"--[^\s\d]\S*")
"""A word that is a flag; behind two hyphens a number is none, and neither is a sentence."""


def parse(flags: type[Parsed], prog: str, argv: Sequence[str]) -> Parsed:
    """Read the words of a command that has no configuration; `--help` prints and exits with status 0.

    Args:
        flags: the model; its docstring and those under its fields are the help.
        prog: how the command is called.
        argv: what follows it.

    Raises:
        ConfigError: one line about the flag that does not fit.
    """
    parser = FlagParser(prog, flags.__doc__ or "", tuple(flag_groups(flags, None)))
    return _validated(flags, _nested(parser.parse(argv)))


def parse_with_config(
    flags: type[Parsed],
    schema: type[Schema],
    section: str,
    prog: str,
    argv: Sequence[str],
    follow: Callable[[Schema, Schema], Schema] | None = None,
) -> tuple[Parsed, Schema]:
    """Read `CONFIG ...`: the YAML file gives the defaults, dotted flags override them.

    Args:
        flags: a model of what the command takes beside its configuration.
        schema: what the YAML file must fit.
        section: the folder of shipped configurations in which a bare name is looked up.
        prog: how the command is called, without CONFIG.
        argv: what follows it.
        follow: what else changes with what the flags change: is handed the file's configuration and the changed one.

    Raises:
        MissingFileError: if CONFIG names nothing.
        ConfigError: if the file or a flag does not fit.
    """
    own = tuple(flag_groups(flags, None))
    place = _config_place(own, argv)
    if place is not None:
        name, argv = argv[place], [*argv[:place], *argv[place + 1 :]]
    elif asks_help(argv):
        name = example_config(section)
    else:
        raise ConfigError(f"{prog} takes a YAML file, or the name of a shipped one, before any other argument")
    file = yaml_config.load(schema, shipped_config(name, section), section)
    # First, because the other flags are those of the new kinds.
    kinds = chosen_kinds(flag_groups(schema, file.model_dump(mode="json")), argv)
    values = yaml_config.changed(file, kinds)
    parser = FlagParser(f"{prog} CONFIG", flags.__doc__ or "", own, tuple(flag_groups(schema, values)))
    given = parser.parse(argv)
    words = {flag.key: given.pop(flag.key) for group in own for flag in group.flags if flag.key in given}
    config = _validated(schema, yaml_config.changed(file, given)) if given else file
    return _validated(flags, _nested(words)), config if follow is None else follow(file, config)


def asks_help(argv: Sequence[str]) -> bool:
    """Whether help is asked for anywhere among the words."""
    return "-h" in argv or "--help" in argv


def chosen_kinds(groups: Iterable[Group], argv: Sequence[str]) -> dict[str, str]:
    """Kinds of sections that words choose, by dotted key: `--search.kind beam`, or with `=` between.

    Raises:
        ConfigError: there is no such kind.
    """
    choices = {flag.key: flag.choices for group in groups for flag in group.flags if flag.choices}
    parts = [part for word in argv for part in word.split("=", 1)]
    out: dict[str, str] = {}
    for word, kind in pairwise(parts):
        key = _underscored(word.removeprefix("--"))
        if word.startswith("--") and key in choices and not kind.startswith("-"):
            if kind not in (*choices[key], *NULL):
                known = ", ".join(choices[key])
                raise ConfigError(f"--{key}: {kind!r} is not one of {known}{did_you_mean(kind, choices[key])}")
            out[key] = kind
    return out


@dataclass(frozen=True, slots=True)
class _Option:
    """A flag as argparse knows it.

    Attributes:
        name: its spelling in help, such as `--dry-run`.
        flag: what it sets.
    """

    name: str
    flag: Flag


class FlagParser:
    """The flags of a command, told in help and read from its words."""

    def __init__(self, prog: str, description: str, own: Sequence[Group], configuration: Sequence[Group] = ()) -> None:
        """Build the parser.

        Args:
            prog: how the command is called.
            description: what help begins with.
            own: flags of the command itself, spelled with hyphens.
            configuration: flags of its configuration, spelled as the keys are.
        """
        self._parser = _Parser(prog, _wrapped(description))
        self._flags: dict[str, Flag] = {}
        self._options: dict[str, _Option] = {}
        flags = [flag for group in own for flag in group.flags]
        stand_alone = [flag for flag in flags if flag.is_positional]
        self._parser.usage = " ".join([prog, *(flag.key.upper() for flag in stand_alone), "[flags]"])
        for flag in stand_alone:
            self._flags[flag.key] = flag
            self._parser.add_argument(flag.key, metavar=flag.key.upper(), help=_escaped(flag.help))
        for flag in flags:
            required = flag.default is PydanticUndefined
            self._add(self._parser.add_argument, _Option(f"--{flag.key.replace('_', '-')}", flag), required)
        for group in _merged(configuration):
            section = self._parser.add_argument_group(group.title or "configuration", _escaped(_wrapped(group.summary)))
            for flag in group.flags:
                self._add(section.add_argument, _Option(f"--{flag.key}", flag))

    def help(self) -> str:
        """The text of `--help`, as wide as the terminal."""
        return self._parser.format_help().rstrip()

    def parse(self, argv: Sequence[str]) -> dict[str, object]:
        """The values that were given, by dotted key; where help is asked for, it is printed and the command ends.

        Raises:
            ConfigError: a flag that there is not, or one without its value.
            SystemExit: after help, with status 0.
        """
        if asks_help(argv):
            print(self.help(), flush=True)
            raise SystemExit(0)
        found = cast("dict[str, str | list[str]]", vars(self._parser.parse_args(list(self._spelled_out(argv)))))
        return {
            key: self._flags[key].value([words] if isinstance(words, str) else words) for key, words in found.items()
        }

    def _add(self, add_argument: Callable[..., object], option: _Option, required: bool = False) -> None:
        """Add a flag to the parser or to a section of it; the command's own go before those of its configuration."""
        flag = option.flag
        if flag.key in self._flags:
            return
        self._flags[flag.key] = flag
        self._options[_underscored(option.name)] = option
        default = _shown(flag.default)
        told = f"{flag.help} (default: {default})" if default else flag.help
        add_argument(
            option.name,
            dest=flag.key,
            metavar=flag.metavar,
            help=SUPPRESS if flag.is_hidden else _escaped(told),
            nargs="*" if flag.shape in ("many", "pairs") else None,
            required=required,
        )

    def _spelled_out(self, argv: Sequence[str]) -> Iterator[str]:
        """The words with every flag as argparse knows it, and every switch with its value: `--json=True`."""
        rest = deque(argv)
        while rest:
            word = rest.popleft()
            name, equals, value = word.partition("=")
            if not _FLAG.fullmatch(name):
                yield word
                continue
            option, is_off = self._option(name)
            if option.flag.shape == "switch" and not equals:
                equals, value = "=", rest.popleft() if rest and option.flag.is_truth(rest[0]) else "True"
            if is_off:
                value = str(not TRUTH.get(value, True))
            yield f"{option.name}{equals}{value}"

    def _option(self, name: str) -> tuple[_Option, bool]:
        """The flag of that name, and whether it is turned off: `--no-json`, `--defense.no-keep_prefix`.

        Raises:
            ConfigError: there is none.
        """
        spelled = _underscored(name)
        if spelled in self._options:
            return self._options[spelled], False
        turned_off = self._options.get(re.sub(r"(^--|\.)no_", r"\1", spelled))
        if turned_off is None or turned_off.flag.shape != "switch":
            raise ConfigError(
                f"there is no flag {name}{did_you_mean(name, (option.name for option in self._options.values()))}"
            )
        return turned_off, True


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


def _config_place(own: Iterable[Group], argv: Sequence[str]) -> int | None:
    """Index of CONFIG, which only switches of the command may go before; None where there is none."""
    switches = {f"--{flag.key}" for group in own for flag in group.flags if flag.shape == "switch"}
    place = next((at for at, word in enumerate(argv) if _underscored(word) not in switches), None)
    return None if place is None or argv[place].startswith("-") else place


def _validated(schema: type[Parsed], values: Mapping[str, object]) -> Parsed:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(yaml_config.explain(schema, error, mark="--")) from error


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    """Values by dotted key as the dictionaries that a model takes."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        *parents, name = key.split(".")
        section = out
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = value
    return out


def _merged(groups: Iterable[Group]) -> Iterable[Group]:
    """The groups with those of one title in one; help says nothing of one whose flags are all hidden."""
    out: dict[str, Group] = {}
    for group in groups:
        before = out.get(group.title, Group(group.title, "", ()))
        shown = "" if all(flag.is_hidden for flag in group.flags) else group.summary
        out[group.title] = Group(group.title, shown or before.summary, (*before.flags, *group.flags))
    return out.values()


def _underscored(name: str) -> str:
    """A flag with underscores for the hyphens inside it, which mean the same."""
    begin = "--" if name.startswith("--") else ""
    return begin + name.removeprefix("--").replace("-", "_")


def _escaped(text: str) -> str:
    """Text as argparse prints it, which formats help with %."""
    return text.replace("%", "%%")


def _shown(default: object) -> str:
    """A default as help shows it; empty where there is none, and for sections, whose flags stand below with theirs."""
    if default is PydanticUndefined:
        return ""
    if isinstance(default, Mapping):
        return "" if default else "none"
    if isinstance(default, tuple | list):
        elements = cast("Sequence[object]", default)
        return "" if any(isinstance(each, Mapping) for each in elements) else " ".join(map(str, elements)) or "none"
    return str(default)


def _wrapped(text: str) -> str:
    """Paragraphs, as wide as help is."""
    width = get_terminal_size().columns - 2
    return "\n\n".join(fill(" ".join(part.split()), width) for part in cleandoc(text).split("\n\n"))
