"""A large model behind an OpenAI-compatible endpoint as a judge, asked in the words of a rubric."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field

from safethink.config import LlmJudgeConfig
from safethink.errors import ServerError
from safethink.files import json_hash
from safethink.judges import rubric
from safethink.judges.asking import Text, Verdict
from safethink.judges.replies import Replies, Reply
from safethink.prompts import Prompt
from safethink.servers.completions import served_model
from safethink.servers.replicas import RefusedError, Replicas

logger = logging.getLogger(__name__)

ABOUT_ONE_REQUEST: Final = frozenset({400, 413, 422})
"""Statuses by which endpoints refuse one request, such as one that their content filter stops; others mean them all."""


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message


class ChatReply(BaseModel):
    """A reply of the chat protocol, as far as it is read here."""

    choices: list[_Choice] = Field(min_length=1)


class AskedLlm:
    """A large model that is asked about each text in a chat of its own.

    Retries, timeouts and requests side by side are the endpoint's settings. A reply without a verdict is no verdict,
    and so is a request that the endpoint refuses: both are named, counted and never guessed.
    """

    def __init__(self, config: LlmJudgeConfig, replies: Path | None = None) -> None:
        """Prepare the connection.

        Args:
            config: the endpoint and the rubric.
            replies: file in which replies are kept; None for none.

        Raises:
            ConfigError: a key that is not there, or the `openai` package.
            MissingFileError: no such rubric.
            RecordError: the file of replies is damaged.
        """
        self._config = config
        self._rubric = rubric.load(config.rubric)
        self._replicas = Replicas(config.server)
        self._replies = Replies(replies)
        self._answered = 0

    @property
    def batch_size(self) -> int:
        """Number of requests in flight at once."""
        return self._config.server.max_concurrency

    @property
    def reads_traces(self) -> bool:
        """Whether it is asked about finished traces too."""
        return self._config.judge_trace

    @cached_property
    def model(self) -> str:
        """The model's name at the endpoint.

        Raises:
            ServerError: the endpoint cannot be reached, and the configuration names no model.
        """
        return served_model(self._replicas, self._config.server)[0]

    @property
    def identity(self) -> dict[str, object]:
        """All that a verdict depends on; not where the model is served."""
        settings = self._config.model_dump(mode="json", exclude={"server", "rubric", "kind"})
        return {"model": self.model, "rubric": self._rubric.model_dump(mode="json"), **settings}

    def ask(self, texts: Sequence[Text]) -> list[Verdict]:
        """One verdict per text, in order.

        Raises:
            ServerError: the endpoint cannot be reached, or refuses all that it is asked; what was answered before is
                kept.
        """
        model = self.model  # Asked for here, because it is asked in the loop that answers are awaited in.
        replies = self._replicas.gather(self._reply(model, conversation(prompt), said) for prompt, said in texts)
        if replies and not self._answered and all(reply.reply is None for reply in replies):
            raise ServerError(f"judge: the endpoint refuses all that it is asked: {replies[0].note}")
        verdicts = [self._read(reply) for reply in replies]
        unread = [verdict.note for verdict in verdicts if verdict.harmful is None]
        if unread:
            logger.warning("the judge gave no verdict on %d of %d texts: %s", len(unread), len(texts), unread[0])
        return verdicts

    def _read(self, reply: Reply) -> Verdict:
        if reply.reply is None:
            return Verdict(None, note=f"the judge's endpoint refused the request: {reply.note}")
        return self._rubric.reading.read(reply.reply, self._config.threshold)

    async def _reply(self, model: str, prompt: str, said: str) -> Reply:
        body: dict[str, object] = {
            "model": model,
            "messages": self._rubric.messages(prompt, said),
            "max_tokens": self._config.max_tokens,
            "temperature": self._config.temperature,
            **self._config.request,
        }
        body = {key: value for key, value in body.items() if value is not None}
        asked = json_hash(body)
        known = self._replies.get(asked)
        if known is None:
            known = await self._ask(asked, body)
            if known.reply is not None:
                self._replies.keep(known)
        self._answered += known.reply is not None
        return known

    async def _ask(self, asked: str, body: dict[str, object]) -> Reply:
        try:
            answer = await self._replicas.post("/chat/completions", body, int(asked[:8], 16), ChatReply)
        except RefusedError as error:
            if error.status not in ABOUT_ONE_REQUEST:
                raise
            return Reply(asked=asked, reply=None, note=str(error))
        return Reply(asked=asked, reply=answer.choices[0].message.content or "")


def conversation(prompt: Prompt) -> str:
    """The prompt as the rubric quotes it: a single turn as it is, several with their speakers."""
    if len(prompt.messages) == 1:
        return prompt.text
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)
