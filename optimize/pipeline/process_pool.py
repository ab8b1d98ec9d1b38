# pyright: standard
"""Runs tasks in processes of their own: one that dies loses its task and nothing else."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from safethink.errors import SafeThinkError
from safethink.progress import track

if TYPE_CHECKING:
    from optimize.pipeline.setup import Models

NOT_RUN: Final = "not run, because"
"""Opening words of the failure of a task that was never begun."""


@runtime_checkable
class Task(Protocol):
    """Something to do, in whichever process is free; it must survive being pickled."""

    @property
    def name(self) -> str:
        """Unique among the tasks that run together."""
        ...

    @property
    def after(self) -> tuple[str, ...]:
        """Names of tasks that must be finished before; those that are not among the tasks are finished already."""
        ...

    @property
    def log(self) -> Path:
        """File of its progress messages, and of the traceback of a failure that nobody foresaw."""
        ...

    def run(self, models: Models) -> None:
        """Do it, and write down what came of it."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection

    @classmethod
    def start(cls) -> _Worker:
        """A process that waits for tasks."""
        context = get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,))
        process.start()
        # Only the child's end stays open, so that its death closes the pipe.
        there.close()
        return cls(process, here)

    def outcome(self) -> str | None:
        """Outcome of its task: None on success, else the error message."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return f"its process died (exit code {self.process.exitcode})"


class Pool:
    """Processes that keep their models between tasks; started when first needed, and ended with the block.

    Args:
        size: the most processes at once.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._idle: list[_Worker] = []
        self._busy: dict[_Worker, Task] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        for worker in [*self._idle, *self._busy]:
            worker.process.terminate()
            worker.process.join()
        self._idle, self._busy = [], {}

    def run(self, tasks: Sequence[Task], description: str) -> dict[str, str]:
        """Run all tasks, each after those it depends on.

        Args:
            tasks: what is to be done.
            description: what that is, in a few words.

        Returns:
            Of each task that failed, by name, what went wrong, in one line.
        """
        if not tasks:
            return {}
        failures: dict[str, str] = {}
        with track(description, len(tasks)) as advance:
            for ended in self.each(tasks):
                failures |= {name: failure for name, failure in ended.items() if failure is not None}
                advance(len(ended))
        return failures

    def each(self, tasks: Sequence[Task], poll_s: float | None = None) -> Iterator[dict[str, str | None]]:
        """Run all tasks, each after those it depends on, and say what became of them as they end.

        Args:
            tasks: what is to be done.
            poll_s: seconds after which nothing new is said as well; None waits for as long as it takes.

        Yields:
            Of each task that ended since, by name, what went wrong, in one line; None where nothing did.
        """
        waiting = list(tasks)
        unfinished = {task.name for task in tasks}
        failed: set[str] = set()
        while waiting or self._busy:
            doomed = [task for task in waiting if not failed.isdisjoint(task.after)]
            for task in doomed:
                waiting.remove(task)
                failed.add(task.name)
                yield {task.name: f"{NOT_RUN} {next(name for name in task.after if name in failed)!r} failed"}
            self._hand_out(waiting, unfinished)
            ended = self._collect(poll_s)
            unfinished -= ended.keys()
            failed |= {name for name, failure in ended.items() if failure is not None}
            yield ended

    def _hand_out(self, waiting: list[Task], unfinished: set[str]) -> None:
        """Give tasks that can begin to processes that are free."""
        ready = [task for task in waiting if unfinished.isdisjoint(task.after)]
        for task in ready[: self._size - len(self._busy)]:
            waiting.remove(task)
            alive = [worker for worker in self._idle if worker.process.is_alive()]
            worker = alive.pop() if alive else _Worker.start()
            self._idle = alive
            self._busy[worker] = task
            worker.pipe.send(task)

    def _collect(self, timeout_s: float | None) -> dict[str, str | None]:
        """Wait for tasks to end; what became of each."""
        ended: dict[str, str | None] = {}
        ready = connection.wait([worker.pipe for worker in self._busy], timeout_s) if self._busy else []
        for worker in [worker for worker in self._busy if worker.pipe in ready]:
            ended[self._busy.pop(worker).name] = worker.outcome()
            if worker.process.is_alive():
                self._idle.append(worker)
        return ended


def explain(failures: Mapping[str, str]) -> str:
    """Failures as one line: what went wrong first, and how much was not run because of it."""
    causes = {name: failure for name, failure in failures.items() if not failure.startswith(NOT_RUN)}
    by_failure: dict[str, list[str]] = {}
    for name, failure in causes.items():
        by_failure.setdefault(failure, []).append(name)
    told = "; ".join(f"{', '.join(names)}: {failure}" for failure, names in by_failure.items())
    skipped = len(failures) - len(causes)
    return told + (f"; {skipped} not run because of it" if skipped else "")


def _serve(pipe: Connection) -> None:
    """Main loop of a worker process: one task after the other, until the pipe closes."""
    # Ctrl-C reaches every process of the terminal; the parent ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    # Processes share the cores; two with two threads each are slower than two with one.
    os.environ["OMP_NUM_THREADS"] = "1"

    import torch

    from optimize.pipeline.setup import Models
    from safethink.cli.program import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
    models = Models()
    while True:
        try:
            task: Task = pipe.recv()
        except EOFError:
            return
        pipe.send(_attempt(task, models))


def _attempt(task: Task, models: Models) -> str | None:
    """Run a task; what went wrong, in one line, or None."""
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            task.run(models)
        except SafeThinkError as error:
            return " ".join(str(error).split())
        # Whatever went wrong concerns this task alone; where it went wrong stands in the log.
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            return f"{type(error).__name__}: {' '.join(str(error).split())}; see {task.log}"
    return None


def _die_with_parent() -> None:
    """End this process with its parent, however that ends: nobody must write where the next one begins."""
    parent = parent_process()
    assert parent is not None, "a worker has a parent"
    connection.wait([parent.sentinel])
    os._exit(1)
