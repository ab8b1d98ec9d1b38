"""A double of vLLM's completions over a model of transformers, which fails when it is told to.

It decodes one token at a time and keeps to what vLLM documents of `/v1/completions` and `/v1/models`: prompts as text
or token ids, `n`, `seed`, `stop`, `stop_token_ids`, `logit_bias`, `logprobs`, `logprob_token_ids`, `return_token_ids`,
`return_tokens_as_token_ids`, `include_stop_str_in_output`, and usage.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from safethink.tokens import num_shared

Fault: TypeAlias = Callable[[], Response]
"""What a request meets instead of an answer."""

Recall: TypeAlias = Callable[[list[int], int], list[int]]
"""What a wrong prefix cache makes of a prompt of which so many of the first tokens are cached."""


def status(code: int, message: str = "overloaded", **headers: str) -> Fault:
    error = {"error": {"message": message, "type": "Error", "code": code}}
    return lambda: JSONResponse(error, code, {name.replace("_", "-"): value for name, value in headers.items()})


def says(text: str) -> Fault:
    """An answer that is text, with status 200."""
    return lambda: PlainTextResponse(text)


def returns(answer: object) -> Fault:
    """An answer that is JSON, with status 200."""
    return lambda: JSONResponse(answer)


def garbled() -> Response:
    """Says that it is JSON and is not."""
    return Response(b'{"choices": [', media_type="application/json")


def hangs_up() -> Response:
    """Loses the connection in the middle of the answer."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"choices"'
        raise ConnectionResetError

    return StreamingResponse(body(), headers={"content-length": "1000"}, media_type="application/json")


def slow(seconds: float) -> Fault:
    def wait() -> Response:
        time.sleep(seconds)
        return status(500)()

    return wait


@dataclass
class VllmDouble:
    """Serves a model on loopback; answers are taken from `faults` first, one per request.

    Attributes:
        model: in eval mode.
        tokenizer: its own.
        name: what the server calls it.
        ids: whether prompts may be token ids.
        extended: whether fields beyond OpenAI's are taken.
        faults: what the next requests meet.
        requests: the body of every completions request so far.
        keys: the `Authorization` of each.
        answers: what was answered, faults aside.
        logprob_token_ids: whether that field is known; it is newer than the others.
        returns_end: whether the token that ends the turn is among those that come back.
        max_model_len: what the list of models says.
        replies: what `/v1/chat/completions` answers; None for no such thing.
        recall: how its prefix cache is wrong; None for one that is right, as if there were none.
        dies_after: number of requests that it lives through.
        port: where it listens; chosen by the system at the first start.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str = "double"
    ids: bool = True
    extended: bool = True
    logprob_token_ids: bool = True
    returns_end: bool = True
    max_model_len: int | None = None
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    replies: Callable[[dict[str, Any]], list[str]] | None = None
    recall: Recall | None = None
    dies_after: float = math.inf
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _cached: list[tuple[object, list[int]]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> VllmDouble:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self._app(), log_config=None, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        """Close every connection and the port."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        def models() -> dict[str, Any]:
            card = {"id": self.name, "object": "model", "max_model_len": self.max_model_len}
            return {"object": "list", "data": [card]}

        @app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.requests.append(body)
            self.keys.append(request.headers.get("authorization"))
            if len(self.requests) > self.dies_after:
                self._server.should_exit = self._server.force_exit = True
                return hangs_up()
            if self.faults:
                return await run_in_threadpool(self.faults.popleft())
            return await run_in_threadpool(self._answer, body)

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            body = await request.json()
            self.requests.append(body)
            if self.replies is None:
                return status(404, "Not Found")()
            return await run_in_threadpool(self._chat, body, self.replies(body))

        return app

    def _chat(self, body: dict[str, Any], replies: list[str]) -> Response:
        choices = [
            {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
            for index, reply in enumerate(replies)
        ]
        shared = {"id": "chat-0", "object": "chat.completion", "created": 0, "model": body["model"]}
        self.answers.append(shared | {"choices": choices})
        return JSONResponse(self.answers[-1])

    def _answer(self, body: dict[str, Any]) -> Response:
        if body["model"] != self.name:
            return status(404, f"The model `{body['model']}` does not exist.")()
        if unknown := body.keys() - OPENAI_FIELDS if not self.extended else set():
            return status(422, f"Unexpected fields in the request: {sorted(unknown)}")()
        if not self.ids and not isinstance(body["prompt"], str):
            return status(400, "prompt must be a string.")()
        with self._lock:
            answer = self._completion(body)
        self.answers.append(answer)
        return JSONResponse(answer)

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        seeds = [body.get("seed", 0) + index for index in range(body.get("n", 1))]
        recalled = self._recalled(list(ids), body.get("cache_salt"))
        choices = [self._choice(index, recalled, body, seed) for index, seed in enumerate(seeds)]
        num_new = sum(choice.pop("num_new") for choice in choices)
        return {
            "id": "cmpl-0",
            "object": "text_completion",
            "created": 0,
            "model": self.name,
            "choices": choices,
            "usage": {"prompt_tokens": len(ids), "completion_tokens": num_new, "total_tokens": len(ids) + num_new},
        }

    def _recalled(self, ids: list[int], salt: object) -> list[int]:
        """What the model reads of a prompt, some of which was read before by a request with the same salt."""
        known = max((num_shared(ids, read) for other, read in self._cached if other == salt), default=0)
        self._cached.append((salt, ids))
        return ids if self.recall is None or not known else self.recall(ids, known)

    def _choice(self, index: int, ids: list[int], body: dict[str, Any], seed: int) -> dict[str, Any]:
        new: list[int] = []
        top: list[dict[str, float]] = []
        finish = "length"
        for token_id, logprobs in self._tokens(ids, body, seed):
            new.append(token_id)
            if body.get("logprobs") is not None:
                top.append(self._top(token_id, logprobs, body))
            if stopped := self._stopped(new, body):
                finish = "stop"
                break
        else:
            stopped = None
        text = self._text(new, body, stopped)
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": finish, "num_new": len(new)}
        choice["logprobs"] = None
        if top:
            tokens = [self._name(token_id, body) for token_id in new]
            chosen = [each[name] for each, name in zip(top, tokens, strict=True)]
            offsets = [len(self.tokenizer.decode(new[:i])) for i in range(len(new))]
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": chosen,
                "top_logprobs": top,
                "text_offset": offsets,
            }
        if body.get("return_token_ids"):
            shown = new if self.returns_end or new[-1] != self.tokenizer.eos_token_id else new[:-1]
            choice |= {"token_ids": shown, "prompt_token_ids": ids, "stop_reason": stopped}
        return choice

    @torch.inference_mode()
    def _tokens(self, ids: list[int], body: dict[str, Any], seed: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Decode; what is yielded beside a token are the model's own log-probabilities, before any truncation."""
        generator = torch.Generator().manual_seed(seed)
        cache, read = DynamicCache(config=self.model.config), ids
        for _ in range(body.get("max_tokens", 16)):
            logits = self.model(torch.tensor([read]), past_key_values=cache).logits[0, -1].double()
            logprobs = logits.log_softmax(-1)
            for name, bias in (body.get("logit_bias") or {}).items():
                logits[int(name)] += bias
            token_id = self._choose(logits, body, generator)
            yield token_id, logprobs
            read = [token_id]

    def _choose(self, logits: torch.Tensor, body: dict[str, Any], generator: torch.Generator) -> int:
        temperature = body.get("temperature", 1.0)
        if temperature == 0:
            return int(logits.argmax())
        scores = logits / temperature
        if (top_k := body.get("top_k", -1)) > 0:
            scores[scores < scores.topk(top_k).values[-1]] = -math.inf
        return int(scores.softmax(-1).multinomial(1, generator=generator))

    def _stopped(self, new: list[int], body: dict[str, Any]) -> str | int | None:
        """Why the last token ends the answer: a string, a token id; the end of the turn is called by its id here."""
        ends = self.model.generation_config.eos_token_id
        if new[-1] in (ends if isinstance(ends, list) else [ends]) + (body.get("stop_token_ids") or []):
            return new[-1]
        text = self.tokenizer.decode(new, skip_special_tokens=body.get("skip_special_tokens", True))
        return next((each for each in body.get("stop") or [] if each in text), None)

    def _text(self, new: list[int], body: dict[str, Any], stopped: str | int | None) -> str:
        """As vLLM has it: the end of the turn is left out, and what stands behind a stop string."""
        shown = new[:-1] if isinstance(stopped, int) and stopped not in (body.get("stop_token_ids") or []) else new
        text = str(self.tokenizer.decode(shown, skip_special_tokens=body.get("skip_special_tokens", True)))
        if isinstance(stopped, str):
            before, _, _ = text.partition(stopped)
            text = before + stopped if body.get("include_stop_str_in_output") else before
        return text

    def _top(self, chosen: int, logprobs: torch.Tensor, body: dict[str, Any]) -> dict[str, float]:
        wanted = body.get("logprob_token_ids") if self.logprob_token_ids else None
        ids = wanted or logprobs.topk(body["logprobs"]).indices.tolist()
        return {self._name(token_id, body): logprobs[token_id].item() for token_id in dict.fromkeys([chosen, *ids])}

    def _name(self, token_id: int, body: dict[str, Any]) -> str:
        if body.get("return_tokens_as_token_ids"):
            return f"token_id:{token_id}"
        return str(self.tokenizer.decode([token_id]))


OPENAI_FIELDS = frozenset(
    {"model", "prompt", "max_tokens", "temperature", "top_p", "n", "seed", "stop", "logprobs", "echo", "logit_bias"}
    | {"presence_penalty", "frequency_penalty", "user", "stream", "suffix", "best_of"}
)
"""What OpenAI's own completions take."""
