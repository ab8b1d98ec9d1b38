# pyright: standard
"""Base of both command lines: commands by name, the flags common to them, and one line per error."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from logging import ERROR, getLogger
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, Field

from safethink import errors
from safethink.cli.parsing import asks_help
from safethink.config import yaml_config
from safethink.config.section import Section
from safethink.config.yaml_config import did_you_mean
from safethink.errors import ConfigError, SafeThinkError
from safethink.files import reason

if TYPE_CHECKING:
    from rich.console import RenderableType

    from safethink.prefix.artifact import Metric

USAGE_ERROR = 2
"""Exit status of an error that the user can put right."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
PIPE_CLOSED = 141
"""Exit status when whoever reads the output has gone, as `head` does; shells have it for SIGPIPE."""
WIDEST = 1000
"""Columns that a table of numbers may take where the terminal has fewer."""
GOES_ON = "the same command goes on where it stopped"
REPORT_EXTRA: Final = {"report": ("scipy", "plotly")}
"""The extra, with its modules, that a command with intervals and an HTML page needs."""


class CommandFlags(Section):
    """Flags of every command beside its configuration."""

    # A model has a `json` already.
    as_json: bool = Field(default=False, alias="json")
    """Print one JSON object and nothing else."""


class RunFlags(CommandFlags):
    """Flags of every command that runs for long."""

    dry_run: bool = False
    """Say what would be done and how long it would take, and stop."""
    full: bool = False
    """With --dry-run, print the resolved configuration as well."""
    probe: bool = True
    """With --dry-run, load a reasoner whose speed is not known, where it is on this machine or behind a server, and
    estimate the time from 20 tokens; False loads nothing."""


Outcome = TypeVar("Outcome")


@dataclass(frozen=True, slots=True)
class Command:
    """One word on the command line.

    Attributes:
        name: the word.
        summary: what it does, in one line.
        run: is handed the words that follow; imports what it needs itself.
        resumes: whether the same words go on where it was interrupted.
    """

    name: str
    summary: str
    run: Callable[[Sequence[str]], None]
    resumes: bool = False


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
        if not argv or asks_help(argv[:1]):
            print(self.help(), flush=True)
            return
        found = next((command for command in self.commands if command.name == argv[0]), None)
        if found is None:
            names = [command.name for command in self.commands]
            hint = did_you_mean(argv[0], names) or f": choose one of {', '.join(names)}"
            raise ConfigError(f"no command {argv[0]!r}{hint}")
        try:
            found.run(argv[1:])
        except KeyboardInterrupt as interrupt:
            if found.resumes:
                raise KeyboardInterrupt(GOES_ON) from interrupt
            raise

    def help(self) -> str:
        """The text of `--help`, as wide as the terminal."""
        width = max(len(command.name) for command in self.commands)
        columns = get_terminal_size().columns
        lines = [
            fill(f"  {command.name:<{width}}  {command.summary}", columns, subsequent_indent=" " * (width + 4))
            for command in self.commands
        ]
        # Examples are copied, so their lines stay whole.
        epilog = [text if text.startswith("examples:") else fill(text, columns) for text in self.epilog.split("\n\n")]
        parts = [f"usage: {self.name} COMMAND ...", fill(self.summary, columns), "\n".join(lines), *epilog]
        return "\n\n".join(parts).rstrip()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run, and turn errors that the user can put right into one line on stderr.

        Returns:
            The exit status: 0, 2 after such an error, 130 after Ctrl-C, 141 when nobody reads on.
        """
        try:
            self.run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
        except SafeThinkError as error:
            print(f"{self.name}: {' '.join(str(error).split())}", file=sys.stderr)
            return USAGE_ERROR
        except BrokenPipeError:
            # Python flushes once more when it ends, and would complain of it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        except OSError as error:
            # Libraries raise it without a number for other things, which are bugs here.
            if error.errno is None:
                raise
            culprit = f"{error.filename}: " if error.filename else ""
            print(f"{self.name}: {culprit}{reason(error)}", file=sys.stderr)
            return USAGE_ERROR
        except KeyboardInterrupt as interrupt:
            print(": ".join([f"{self.name}", "interrupted", *map(str, interrupt.args)]), file=sys.stderr)
            return INTERRUPTED
        return 0


def run_or_plan(
    flags: RunFlags,
    configs: Sequence[BaseModel],
    plan: Callable[[], BaseModel],
    run: Callable[[], Outcome | None],
    told: Callable[[Outcome], RenderableType],
    needs: Mapping[str, Sequence[str]],
    value: Callable[[Outcome], Any] | None = None,
) -> Outcome | None:
    """Do the work of a command and print what came out; or, where `--dry-run` asks for it, its plan.

    Args:
        flags: what decides that, and how it is printed.
        configs: what `--full` prints behind the plan.
        plan: what the work would take.
        run: the work; None where another process prints what came out.
        told: what came out, for a reader.
        needs: by extra of the package, the modules that the work imports.
        value: what came out, for a machine; left out for the outcome itself.

    Returns:
        What came out; None where nothing was run.

    Raises:
        ConfigError: a module is missing.
    """
    if flags.dry_run:
        # It may load a model, to see how fast it is.
        quiet_libraries()
        planned = plan()
        shown = [planned, *configs] if flags.full else [planned]
        show(flags.as_json, lambda: planned, lambda: yaml_config.dump(*shown).rstrip())
        return None
    for extra, modules in needs.items():
        errors.require(extra, *modules)
    quiet_libraries()
    outcome = run()
    if outcome is not None:
        show(flags.as_json, lambda: outcome if value is None else value(outcome), lambda: told(outcome))
    return outcome


def quiet_libraries() -> None:
    """Silence the progress bars and notices of transformers, what it imports, and the hub.

    A command shows its own progress.
    """
    from transformers.utils import logging

    quiet_hub()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # peft and trl import it, and it speaks of kernels that nothing asks for.
    getLogger("bitsandbytes").setLevel(ERROR)


def quiet_hub() -> None:
    """Silence those of the hub alone, for commands that load no model."""
    from huggingface_hub.utils import disable_progress_bars, logging

    # Without a network it would count its attempts aloud; the error that follows says it once.
    logging.set_verbosity_error()
    disable_progress_bars()


def show(json: bool, value: Callable[[], Any], text: Callable[[], RenderableType]) -> None:
    """Print the machine's version or the reader's, who gets text as it is and everything else as wide as the terminal.

    Args:
        json: whether the machine's is asked for.
        value: what goes into it: a model, or what JSON has.
        text: what a reader gets.
    """
    if json:
        found = value()
        print(found.model_dump_json() if isinstance(found, BaseModel) else jsonlib.dumps(found, ensure_ascii=False))
        return
    shown = text()
    if isinstance(shown, str):
        print(shown)
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if isinstance(shown, Table):
        # Digits that are folded or cut are worse than long lines.
        natural = console.measure(shown, options=console.options.update(max_width=WIDEST)).maximum
        console.width = max(console.width, natural)
    console.print(shown, markup=False, highlight=False)


def metric_lines(metrics: Mapping[str, Metric]) -> list[str]:
    """One line per metric, with interval and n; as wide as the longest name needs."""
    width = max(map(len, metrics), default=0)
    return [
        f"{name:<{width}}  {metric.value:.3f}  [{metric.low:.3f}, {metric.high:.3f}]  n = {metric.n}"
        for name, metric in metrics.items()
    ]
