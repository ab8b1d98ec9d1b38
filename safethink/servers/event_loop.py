"""An event loop on a thread of its own: many requests at once behind an ordinary call."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")

CLOSING_TIMEOUT_S = 5.0
"""What runs for longer once nobody needs the loop is left behind."""


class Background:
    """Runs coroutines for callers that wait; so it can be called where a loop runs already, as in a notebook.

    The loop outlives a call, and with it the connections that were opened in it.
    """

    def __init__(self, closing: Iterable[Callable[[], Awaitable[None]]] = ()) -> None:
        """Start the thread.

        Args:
            closing: what to await when the loop is no longer needed, such as the closing of connections.
        """
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="safethink-requests", daemon=True)
        thread.start()
        weakref.finalize(self, _close, self._loop, thread, tuple(closing))

    def gather(self, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run coroutines side by side and return their results, in order.

        The first that raises cancels the others, and so does whatever stops the caller, such as Ctrl-C.
        """
        future = asyncio.run_coroutine_threadsafe(_together(list(work)), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


async def _together(work: list[Coroutine[Any, Any, Result]]) -> list[Result]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _close(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, closing: tuple[Callable[[], Awaitable[None]], ...]
) -> None:
    async def close() -> None:
        for each in closing:
            await each()
        loop.stop()

    # The garbage collector may call this on any thread, the loop's own included, which must not wait for itself.
    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is thread:
        return
    thread.join(CLOSING_TIMEOUT_S)
    if not thread.is_alive():
        loop.close()
