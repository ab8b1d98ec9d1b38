"""Progress of long work: a bar on a terminal, plain lines elsewhere; always on stderr, so that stdout stays clean."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TextIO, TypeVar

Item = TypeVar("Item")

PLAIN_INTERVAL_S = 5.0
"""Seconds between two plain lines."""


def progress(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield `items` one by one while showing how many are done.

    Args:
        items: what is worked through.
        description: what is being done, in a few words.
        total: how many there are, where `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with track(description, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def track(description: str, total: int | None = None) -> Generator[Callable[[int], None], None, None]:
    """Open one line of progress and hand out the function that advances it.

    For work that does not come as one iterable, such as rows that finish in any order:

        with track("evaluating", len(rows)) as advance:
            for batch in batches:
                advance(len(batch))

    Args:
        description: what is being done, in a few words.
        total: how many items there are; None where nobody knows. Where there are none, nothing is shown.
    """
    if total == 0:
        yield lambda count: None
        return
    show = _bar if sys.stderr.isatty() else _lines
    with show(description, total) as advance:
        yield advance


@contextmanager
def _bar(description: str, total: int | None) -> Generator[Callable[[int], None], None, None]:
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as display:
        task = display.add_task(description, total=total)
        yield lambda count: display.advance(task, count)


@contextmanager
def _lines(description: str, total: int | None) -> Generator[Callable[[int], None], None, None]:
    stream: TextIO = sys.stderr
    started_s = printed_s = time.monotonic()
    done = printed = 0

    def report() -> None:
        nonlocal printed, printed_s
        printed, printed_s = done, time.monotonic()
        of_total = f"/{total}" if total is not None else ""
        print(f"{description}: {done}{of_total} ({time.monotonic() - started_s:.0f} s)", file=stream, flush=True)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if time.monotonic() - printed_s >= PLAIN_INTERVAL_S:
            report()

    yield advance
    if done > printed or not done:
        report()
