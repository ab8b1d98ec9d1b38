# pyright: standard
"""What both command lines share: commands by name, flags from config types, one line per error."""

from __future__ import annotations

import io
import json as jsonlib
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, make_dataclass
from difflib import get_close_matches
from inspect import getdoc
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from pydantic import BaseModel, ValidationError

from safethink.config import yaml_config
from safethink.config.shipped import example_config, shipped_config
from safethink.errors import ConfigError, SafeThinkError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Flags = TypeVar("Flags")
Schema = TypeVar("Schema", bound=BaseModel)

USAGE_ERROR = 2
"""Exit status of an error that the user can put right."""
TABLE_COLUMNS = 104
"""Width that the table of results needs, also where output goes to a file."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
_NESTED_MISTAKE = re.compile(
    r"Error parsing config\.?(?P<parents>\S*): \d+ validation errors? for \w+ (?P<field>\S+) (?P<problem>.*?) \[type="
)
"""How tyro words a value that pydantic refused."""
_SWITCHES = ("--json", "--dry-run", "--dry_run")
_MARKERS = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)


@dataclass(frozen=True, slots=True)
class Command:
    """One word on the command line.

    Attributes:
        name: the word.
        summary: what it does, in one line.
        run: is handed the words that follow; imports what it needs itself.
    """

    name: str
    summary: str
    run: Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Program:
    """A command line, or a command with commands of its own.

    Attributes:
        name: how it is called.
        summary: what it is for.
        commands: what it can do.
        epilog: what help ends with, such as examples.
    """

    name: str
    summary: str
    commands: tuple[Command, ...]
    epilog: str = ""

    def run(self, argv: Sequence[str]) -> None:
        """Hand `argv` to the command that it names; print help where it names none.

        Raises:
            ConfigError: if there is no such command.
        """
        if not argv or argv[0] in ("-h", "--help"):
            print(self.help())
            return
        found = next((command for command in self.commands if command.name == argv[0]), None)
        if found is None:
            names = [command.name for command in self.commands]
            close = get_close_matches(argv[0], names, n=1)
            hint = f", did you mean {close[0]!r}?" if close else f": choose one of {', '.join(names)}"
            raise ConfigError(f"no command {argv[0]!r}{hint}")
        found.run(argv[1:])

    def help(self) -> str:
        """What `--help` prints."""
        width = max(len(command.name) for command in self.commands)
        lines = [f"  {command.name:<{width}}  {command.summary}" for command in self.commands]
        return "\n".join([f"usage: {self.name} COMMAND ...", "", self.summary, "", *lines, "", self.epilog]).rstrip()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run, and turn errors that the user can put right into one line on stderr.

        Returns:
            The exit status: 0, 2 after such an error, 130 after Ctrl-C.
        """
        try:
            self.run(sys.argv[1:] if argv is None else argv)
        except SafeThinkError as error:
            print(f"{self.name}: {' '.join(str(error).split())}", file=sys.stderr)
            return USAGE_ERROR
        except OSError as error:
            # Libraries raise it without a number for other things, which are bugs here.
            if error.errno is None:
                raise
            culprit = f"{error.filename}: " if error.filename else ""
            print(f"{self.name}: {culprit}{error.strerror}", file=sys.stderr)
            return USAGE_ERROR
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted", file=sys.stderr)
            return INTERRUPTED
        return 0


def parse(flags: type[Flags], prog: str, argv: Sequence[str], description: str | None = None) -> Flags:
    """Parse flags into a dataclass; `--help` prints and exits with status 0.

    Args:
        flags: the dataclass; the docstrings under its fields are the help.
        prog: how the command is called.
        argv: what follows it.
        description: what help begins with; None for the dataclass's docstring.

    Raises:
        ConfigError: one line about the flag that does not fit.
    """
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(flags, prog=prog, args=argv, description=description, config=_MARKERS, use_underscores=True)
    except SystemExit as end:
        if not end.code:
            raise
        raise ConfigError(_one_line(complaint.getvalue())) from end
    except ValidationError as error:
        raise ConfigError(f"--{yaml_config.explain(BaseModel, error)}") from error


def parse_with_config(
    flags: type[Flags], schema: type[Schema], section: str, prog: str, argv: Sequence[str]
) -> tuple[Flags, Schema]:
    """Parse `CONFIG ...`: the YAML file gives the defaults, dotted flags override them.

    Args:
        flags: a dataclass with what the command takes beside its configuration.
        schema: what the YAML file must fit.
        section: the folder of shipped configurations in which a bare name is looked up.
        prog: how the command is called, without CONFIG.
        argv: what follows it.

    Raises:
        MissingFileError: if CONFIG names nothing.
        ConfigError: if the file or a flag does not fit.
    """
    place = next((index for index, word in enumerate(argv) if word not in _SWITCHES), len(argv))
    name = argv[place] if place < len(argv) else None
    if name in ("-h", "--help"):
        name = example_config(section)
    elif name is None or name.startswith("-"):
        raise ConfigError(f"{prog} takes a YAML file, or the name of a shipped one, before any other argument")
    else:
        argv = [*argv[:place], *argv[place + 1 :]]
    config = yaml_config.load(schema, shipped_config(name, section))
    # First, because the other flags are those of the new kinds.
    kinds = {key: kind for key, kind in _kinds(argv).items() if _is_section(config, key.rpartition(".")[0])}
    config = yaml_config.override(config, kinds, "flags")
    flat = tyro.conf.arg(name="")
    both: type[Any] = make_dataclass(
        flags.__name__, [("flags", Annotated[flags, flat]), ("config", Annotated[schema, flat], config)]
    )
    parsed = parse(both, f"{prog} CONFIG", argv, getdoc(flags))
    return parsed.flags, parsed.config


def _kinds(argv: Sequence[str]) -> dict[str, str]:
    """What flags say of the kinds of sections, by dotted key: `--search.kind beam`, or with `=` between."""
    words = [part for word in argv for part in word.split("=", 1)]
    return {
        flag.removeprefix("--"): value
        for flag, value in pairwise(words)
        if re.fullmatch(r"--\S+\.kind", flag) and not value.startswith("-")
    }


def _is_section(config: BaseModel, key: str) -> bool:
    """Whether a dotted key leads to a section: not into a dictionary, and not nowhere."""
    section: object = config
    for name in key.split("."):
        section = getattr(section, name, None)
    return isinstance(section, BaseModel)


def quiet_libraries() -> None:
    """Silence the progress bars and notices of transformers and the hub; a command shows its own progress."""
    from transformers.utils import logging

    quiet_hub()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def quiet_hub() -> None:
    """Silence those of the hub alone, for commands that load no model."""
    from huggingface_hub.utils import disable_progress_bars, logging

    # Without a network it would count its attempts aloud; the error that follows says it once.
    logging.set_verbosity_error()
    disable_progress_bars()


def _one_line(box: str) -> str:
    """What tyro says in a box, as one line: the complaint, and the likeliest flag that was meant."""
    rows = [row.strip("│ ") for row in box.splitlines()[1:-1]]
    sections = [list(section) for is_rule, section in groupby(rows, key=lambda row: not row.strip("─-")) if not is_rule]
    complaint = " ".join(sections[0])
    invalid = _NESTED_MISTAKE.match(complaint)
    if invalid:
        path = ".".join(part for part in (invalid["parents"], invalid["field"]) if part)
        problem = invalid["problem"].removeprefix("Value error, ")
        complaint = f"--{path}: {problem[:1].lower()}{problem[1:]}"
    meant = next((section[1].split()[0] for section in sections if section[0] == "Perhaps you meant:"), None)
    return complaint if meant is None else f"{complaint}; perhaps you meant {meant}"


def console() -> Console:
    """Where results are printed: as wide as the terminal, but never too narrow for the table of results."""
    from rich.console import Console

    found = Console()
    found.width = max(found.width, TABLE_COLUMNS)
    return found


def show(json: bool, value: Callable[[], Any], text: Callable[[], RenderableType]) -> None:
    """Print the machine's version or the reader's.

    Args:
        json: whether the machine's is asked for.
        value: what goes into it.
        text: what a reader gets.
    """
    if json:
        print(jsonlib.dumps(value(), ensure_ascii=False))
        return
    shown = text()
    console().print(shown, markup=False, highlight=False, soft_wrap=isinstance(shown, str))
