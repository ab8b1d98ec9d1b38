"""Checks the documents: links, and every block as CONTRIBUTING.md says; `make docs`.

    python -m docs.tools.check [--fast] [PAGE ...]

With `--fast` nothing runs: links, named files, configurations and the commands' words are checked, in a second.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from docs.tools import commands, pages
from docs.tools.pages import ROOT, Block, Page
from safethink.config import RunConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import SafeThinkError

TIMEOUT_S: Final = 900
"""The most that one block may take."""


def main(argv: list[str]) -> int:
    """Check the pages named, or all; print what is wrong.

    Returns:
        1 if anything is wrong.
    """
    named = [Path(each).resolve() for each in argv if not each.startswith("--")]
    everything = [pages.read(path) for path in pages.documents()]
    problems = pages.broken_links(everything)
    for page in everything:
        if named and page.path not in named:
            continue
        with TemporaryDirectory(prefix="safethink-docs-") as folder:
            problems += check(page, Path(folder), runs="--fast" not in argv)
    for problem in problems:
        print(problem, file=sys.stderr)
    return int(bool(problems))


def check(page: Page, folder: Path, runs: bool) -> list[str]:
    """Go through a page's blocks in order, in one folder that is empty at first.

    Args:
        page: the page.
        folder: where its commands run and its files are written.
        runs: whether commands and Python run, too.

    Returns:
        What is wrong, a line each.
    """
    problems: list[str] = []
    for block in page.blocks:
        found = list(_problems(block, folder))
        if runs and not found and block.reason is None and block.language in ("sh", "python"):
            found = list(_run(block, folder))
        problems += [f"{block.place}: {problem}" for problem in found]
    return problems


def _problems(block: Block, folder: Path) -> Iterator[str]:
    """Problems that show without running anything; a command's short form must be valid too."""
    if block.reason == "":
        yield "`not run` without a reason"
    try:
        match block.language:
            case "sh":
                yield from _sh_problems(block.text, folder)
            case "python":
                ast.parse(block.text)
            case "yaml":
                _check_yaml(block.text, folder)
            case "json":
                for line in block.text.splitlines():
                    json.loads(line)
            case "toml":
                tomllib.loads(block.text)
            case "":
                pass
            case unknown:
                yield f"a block in {unknown!r}: CONTRIBUTING.md knows sh, python, yaml, json, toml or none"
    except SafeThinkError as error:
        yield str(error)
    except (ValueError, SyntaxError, yaml.YAMLError) as error:
        yield f"not {block.language}: {error}"


def _sh_problems(script: str, folder: Path) -> Iterator[str]:
    found = list(_call_problems(script, folder))
    yield from found
    if not found:
        with TemporaryDirectory() as smaller:
            commands.short_form(script, folder, Path(smaller))


def _call_problems(script: str, folder: Path) -> Iterator[str]:
    for call in commands.calls(script):
        known = commands.known_flags(call.name)
        if known is None:
            yield f"no command {call.name!r}"
            continue
        if said := commands.problem(call, folder):
            yield said
        yield from (f"{call.name} has no flag {flag}" for flag in call.flags if flag not in known)


def _check_yaml(text: str, folder: Path) -> None:
    """A whole configuration, or sections of one: those are put over the testbed's."""
    values: dict[str, Any] = yaml.safe_load(text)
    first, _, _ = text.partition("\n")
    if first.startswith("# ") and first.endswith(".yaml"):
        # The command that takes it knows its schema.
        (folder / first.removeprefix("# ")).write_text(text, encoding="utf-8")
        return
    testbed = yaml_config.load(RunConfig, shipped_config("run/testbed"))
    yaml_config.validate(RunConfig, testbed.model_dump() | values, "this block")


def _run(block: Block, folder: Path) -> Iterator[str]:
    """Run a block, and say what it printed where it failed."""
    with TemporaryDirectory() as smaller:
        if block.language == "sh":
            argv = ["bash", "-euc", commands.short_form(block.text, folder, Path(smaller))]
        else:
            argv = [sys.executable, "-c", block.text]
        began = time.monotonic()
        try:
            done = subprocess.run(
                argv,
                cwd=folder,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield f"not done after {TIMEOUT_S} s"
            return
    print(f"{block.place}: status {done.returncode} after {time.monotonic() - began:.0f} s", flush=True)
    if done.returncode != 0:
        yield f"status {done.returncode}: {' '.join((done.stdout + done.stderr).split()[-60:])}"


def _environment() -> dict[str, str]:
    """The commands of this installation, over the code of this checkout."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
