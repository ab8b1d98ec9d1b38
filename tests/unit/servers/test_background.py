"""An event loop behind ordinary calls: side by side, inside another loop, interrupted, gone with its owner."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from safethink.servers.replicas import Background


async def after(seconds: float, value: int) -> int:
    await asyncio.sleep(seconds)
    return value


async def fail(message: str) -> int:
    raise ValueError(message)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_results_come_in_order_and_the_work_runs_side_by_side() -> None:
    background, started = Background(), list[int]()

    async def once_all_have_started(value: int) -> int:
        started.append(value)
        while len(started) < 20:
            await asyncio.sleep(0)
        return await after((20 - value) / 100, value)

    assert background.gather(once_all_have_started(value) for value in range(20)) == list(range(20))


def test_it_may_be_called_where_a_loop_runs_already() -> None:
    background = Background()

    async def notebook() -> list[int]:
        return background.gather([after(0, 1), after(0, 2)])

    assert asyncio.run(notebook()) == [1, 2]


def test_the_first_error_is_raised_as_it_is_and_cancels_the_others() -> None:
    background, cancelled = Background(), list[bool]()

    async def waits() -> int:
        try:
            return await after(30, 1)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(ValueError, match="no"):
        background.gather([waits(), fail("no")])
    assert cancelled == [True]
    assert background.gather([after(0, 3)]) == [3]


def test_an_interrupted_caller_cancels_the_work() -> None:
    """The caller's thread is interrupted as Ctrl-C does it: by a signal, while it waits."""
    background, cancelled = Background(), threading.Event()

    async def work() -> None:
        await asyncio.sleep(0.2)
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(KeyboardInterrupt):
        background.gather([work()])
    assert cancelled.wait(5)


def test_it_serves_on_after_an_interrupt() -> None:
    background = Background()

    async def interrupted() -> None:
        await asyncio.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        background.gather([interrupted()])
    assert background.gather([after(0, 3)]) == [3]


def test_its_owner_may_be_dropped_on_the_loops_own_thread() -> None:
    """As the garbage collector may do it."""
    before = set(threading.enumerate())
    owners = [Background()]
    (thread,) = set(threading.enumerate()) - before

    async def drop_soon() -> None:
        asyncio.get_running_loop().call_later(0.2, owners.clear)

    owners[0].gather([drop_soon()])
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.slow
def test_the_thread_ends_with_its_owner_and_closes_what_it_opened() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append(threading.current_thread().name)

    before = set(threading.enumerate())
    background = Background([close])
    (thread,) = set(threading.enumerate()) - before
    assert background.gather([after(0, 1)]) == [1]
    del background
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert closed == ["safethink-requests"]
