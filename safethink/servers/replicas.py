"""One model behind one or several servers: whom to ask, how often to try again, and what to say when it fails."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from pydantic import BaseModel, ValidationError

from safethink import errors
from safethink.config import ServerConfig
from safethink.errors import ConfigError, ServerError
from safethink.seeds import stable_seed

if TYPE_CHECKING:
    import openai

Answer = TypeVar("Answer", bound=BaseModel)
Result = TypeVar("Result")

REST_S: Final = 30.0
"""A replica that failed is asked after the others for so long."""
CONNECT_TIMEOUT_S: Final = 10.0
CLOSING_TIMEOUT_S: Final = 5.0
"""Requests that run for longer once nobody needs the loop are left behind."""
EXCERPT_CHARACTERS: Final = 120


class RefusedError(ServerError):
    """A request that the server understood and refuses: another server would as well."""

    def __init__(self, message: str, status: int) -> None:
        """Say what it refuses; `status` is that of HTTP."""
        super().__init__(message)
        self.status = status


class UnreachableError(ServerError):
    """No replica gives an answer: each is down, busy or failing."""


class Background:
    """An event loop on a daemon thread, for callers that wait; also where a loop runs already, as in a notebook.

    The loop outlives a call, and with it the connections that were opened in it. anyio's blocking portal would do the
    same, but its thread is joined when the interpreter ends, so that Ctrl-C during a request would not end the process.
    """

    def __init__(self, closing: Iterable[Callable[[], Awaitable[None]]] = ()) -> None:
        """Start the thread.

        Args:
            closing: what to await when the loop is no longer needed, such as the closing of connections.
        """
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=_serve, args=(self._loop,), name="safethink-requests", daemon=True)
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
    if threading.current_thread() is not thread:
        thread.join(CLOSING_TIMEOUT_S)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop until it is stopped, then close it."""
    loop.run_forever()
    loop.close()


@dataclass
class _Replica:
    """One server, and until when it is spared after it failed."""

    url: str
    client: openai.AsyncOpenAI
    rests_until: float = 0.0

    @property
    def rests(self) -> bool:
        return time.monotonic() < self.rests_until


class Replicas:
    """Sends requests to the servers of one model.

    A failed request is tried again by the `openai` package: on 408, 409, 429, 5xx, a timeout or a lost connection,
    after growing pauses or the one that `Retry-After` names. What still fails goes to the next replica.
    """

    def __init__(self, config: ServerConfig) -> None:
        """Prepare connections; none is opened yet.

        Raises:
            ConfigError: the `openai` package is missing, or the environment variable with the key.
        """
        errors.require("serve", "openai")
        import openai

        key = _key(config)
        timeout = openai.Timeout(config.timeout_s, connect=min(CONNECT_TIMEOUT_S, config.timeout_s))
        self._replicas = [
            _Replica(url, openai.AsyncOpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0))
            for url in config.urls
        ]
        self._config = config
        self._free = asyncio.Semaphore(config.max_concurrency)
        self._background = Background([replica.client.close for replica in self._replicas])

    @property
    def urls(self) -> tuple[str, ...]:
        """Base URL of each server."""
        return tuple(replica.url for replica in self._replicas)

    def each(self) -> Sequence[Replicas]:
        """Every server alone; they share their connections, and the limit on requests in flight."""
        alone = [copy(self) for _ in self._replicas]
        for each, replica in zip(alone, self._replicas, strict=True):
            each._replicas = [replica]
        return alone

    def gather(self, work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
        """Run coroutines that ask this model, side by side; see `Background.gather`."""
        return self._background.gather(work)

    async def get(self, path: str, shape: type[Answer], max_retries: int | None = None) -> Answer:
        """Ask for `path`; raises what `post` does.

        Args:
            path: below the server's url, such as `/models`.
            shape: what the answer must fit.
            max_retries: None for as many as are configured.
        """
        return await self._ask("GET", path, None, 0, shape, max_retries)

    async def post(self, path: str, body: Mapping[str, object], row: int, shape: type[Answer]) -> Answer:
        """Send `body` to the replica of `row`, or to the next one that lives.

        Args:
            path: below the server's url, such as `/completions`.
            body: what is asked, as JSON.
            row: rows with the same key go to the same replica as long as it lives.
            shape: what the answer must fit.

        Raises:
            RefusedError: the server refuses the request.
            UnreachableError: no replica answers.
            ServerError: one answers nonsense.
        """
        return await self._ask("POST", path, body, row, shape)

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        row: int,
        shape: type[Answer],
        max_retries: int | None = None,
    ) -> Answer:
        import openai

        failures: list[str] = []
        max_retries = self._config.max_retries if max_retries is None else max_retries
        async with self._free:
            order = self._order(row)
            for index, replica in enumerate(order):
                is_last = index == len(order) - 1
                retries = max_retries if is_last else min(1, max_retries)
                try:
                    return _shaped(replica.url, await _send(replica, method, path, body, retries), shape)
                except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                    replica.rests_until = time.monotonic() + REST_S
                    failures.append(f"{replica.url} {_complaint(error)}")
                except openai.APIStatusError as error:
                    raise RefusedError(f"the server at {replica.url} {_complaint(error)}", error.status_code) from error
        tries = f" after {max_retries} retries" if max_retries else ""
        raise UnreachableError(f"no answer from the server{tries}: {'; '.join(failures)}")

    def _order(self, row: int) -> list[_Replica]:
        """Every replica, in the order in which `row` asks them: each row has its own; those that failed are last."""
        return sorted(self._replicas, key=lambda replica: (replica.rests, stable_seed(row, replica.url)))


async def _send(replica: _Replica, method: str, path: str, body: Mapping[str, object] | None, retries: int) -> object:
    options: openai.RequestOptions = {"max_retries": retries}
    try:
        if method == "GET":
            return await replica.client.get(path, cast_to=object, options=options)
        return await replica.client.post(path, cast_to=object, body=body, options=options)
    # What says that it is JSON and is not.
    except ValueError as error:
        raise ServerError(f"the server at {replica.url} answers what is no JSON") from error


def _shaped(url: str, answer: object, shape: type[Answer]) -> Answer:
    """Validate a response against the schema that was asked for."""
    if isinstance(answer, str):
        raise ServerError(f"the server at {url} answers what is no JSON: {_excerpt(answer)}")
    try:
        return shape.model_validate(answer)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        problem = f"{where}: {first['msg']}"
        raise ServerError(f"the server at {url} answers nonsense: {problem}, in {_excerpt(str(answer))}") from error


def _complaint(error: openai.APIError) -> str:
    import openai

    if isinstance(error, openai.APIStatusError):
        found = error.body
        body = cast("dict[str, object]", found) if isinstance(found, dict) else {"message": found}
        said = body.get("message") or body.get("detail") or error.message
        return f"says {error.status_code}: {_excerpt(str(said))}"
    if isinstance(error, openai.APITimeoutError):
        return "took too long"
    return f"cannot be reached: {error.__cause__ or error}"


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= EXCERPT_CHARACTERS else f"{flat[:EXCERPT_CHARACTERS]}...")


def _key(config: ServerConfig) -> str:
    if config.api_key_env is None:
        # The client insists on one; what vLLM's guide calls it where there is none.
        return "EMPTY"
    key = os.environ.get(config.api_key_env)
    if not key:
        raise ConfigError(f"the environment variable {config.api_key_env!r}, which api_key_env names, is not set")
    return key
