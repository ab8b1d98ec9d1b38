"""Progress of a search: a table on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

from safethink.progress import PLAIN_INTERVAL_S

Show: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes the log's line of a step."""

ROWS = 8
"""Steps in the table."""


@contextmanager
def live(steps: int, done: int) -> Generator[Show, None, None]:
    """Hand out the function that shows a finished step.

    Args:
        steps: the most steps.
        done: steps that an earlier run has finished.
    """
    show = _table if sys.stderr.isatty() else _lines
    with show(steps, done) as shown:
        yield shown


@contextmanager
def _table(steps: int, done: int) -> Generator[Show, None, None]:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    last: deque[dict[str, Any]] = deque(maxlen=ROWS)

    def table() -> Table:
        finished = last[-1]["step"] + 1 if last else done
        shown = Table(title=f"searching: {finished} of {steps} steps", title_justify="left")
        known: list[dict[str, float]] = [line["cost"] for line in last if line["cost"]]
        cost = known[-1] if known else dict[str, float]()
        terms = list(cost)
        for name in ("step", "tokens", "survive", *terms):
            shown.add_column(name, justify="right")
        shown.add_column("best so far", overflow="fold")
        for line in last:
            costs = [f"{line['cost'][term]:.4f}" if term in line["cost"] else "" for term in terms]
            shown.add_row(str(line["step"]), f"{line['tokens']:,}", _survivors(line), *costs, Text(repr(line["text"])))
        return shown

    with Live(table(), console=Console(stderr=True)) as display:

        def show(line: dict[str, Any]) -> None:
            last.append(line)
            display.update(table())

        yield show


@contextmanager
def _lines(steps: int, done: int) -> Generator[Show, None, None]:
    started_s = printed_s = time.monotonic()
    last: dict[str, Any] | None = None

    def report() -> None:
        how = f"{done}/{steps} steps"
        if last is not None:
            cost = f"{last['cost']['total']:.4f}" if last["cost"] else "none"
            how = f"{last['step'] + 1}/{steps} steps, {last['tokens']:,} tokens, {_survivors(last)} survive"
            how += f", best cost {cost}: {last['text']!r}"
        print(f"searching: {how} ({time.monotonic() - started_s:.0f} s)", file=sys.stderr, flush=True)

    def show(line: dict[str, Any]) -> None:
        nonlocal last, printed_s
        last = line
        if time.monotonic() - printed_s >= PLAIN_INTERVAL_S:
            printed_s = time.monotonic()
            report()

    yield show
    report()


def _survivors(line: dict[str, Any]) -> str:
    return f"{line['looked_at'] - line['dropped']}/{line['looked_at']}"
