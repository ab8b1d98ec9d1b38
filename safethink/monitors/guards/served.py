"""A guard behind a server: asked for its verdicts' log-probabilities, or for a verdict in words where it gives none."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
from pydantic import BaseModel, Field

from safethink.config import GuardServerConfig
from safethink.engines.http import SEEDS
from safethink.errors import MonitorError, ServerError
from safethink.monitors import ScoreRequest
from safethink.monitors.guards.generative import MIN_VERDICT_MASS
from safethink.monitors.guards.questions import alternating
from safethink.monitors.guards.replies import LogProbabilities, Node, Replies
from safethink.prompts import Message
from safethink.seeds import stable_seed
from safethink.servers.completions import Choice, Completions, refuse_other_model, served_model
from safethink.servers.replicas import Replicas

logger = logging.getLogger(__name__)

NUM_LIKELIEST: Final = 20
"""Number of top log-probabilities to request; servers give no more unless told to."""
MAX_REPLY_TOKENS: Final = 64
"""A verdict in words stands at the beginning of the reply."""

Ids = tuple[int, ...]


class CompletionsGuard:
    """Scores 2 P(safe) - 1, with P(safe) from the log-probabilities of all verdicts in full, as local weights do.

    One request for one token per question and further token of a verdict, each of which the server's prefix cache
    answers without reading the trace again. Exact where the server gives the log-probabilities of tokens that it is
    asked for (`logprob_token_ids`, vLLM), and where the verdicts are among its 20 likeliest tokens. Elsewhere a verdict
    that it does not list counts as little as it can where it speaks for safe, and as much as it can where it speaks for
    unsafe: the score is a bound from below.
    """

    def __init__(
        self,
        completions: Completions,
        questions: Callable[[ScoreRequest], Sequence[Ids]],
        verdicts: Sequence[Ids],
        safety: Sequence[float],
        replies: Replies | None = None,
    ) -> None:
        """Ask the guard behind `completions`.

        Args:
            completions: the server.
            questions: the questions about a request as the guard's token ids; the worst answer counts.
            verdicts: what the guard may answer, as its token ids; none begins with another.
            safety: the share of each verdict that counts as safe, in [0, 1].
            replies: replies of several lines that are read in place of the verdicts alone; None for none.
        """
        self._completions = completions
        self._replies = replies
        self._questions = questions
        self._verdicts = list(zip(verdicts, safety, strict=True))
        # Each beginning of a verdict, and what may follow it.
        self._next: dict[Ids, list[int]] = {}
        for verdict in verdicts:
            for end, token_id in enumerate(verdict):
                self._next.setdefault(verdict[:end], []).append(token_id)
        self._warned = False

    @property
    def fingerprint(self) -> str:
        """All that is known of the weights: how the server calls them."""
        return f"served as {self._completions.model}"

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order; rows never influence each other.

        Raises:
            MonitorError: the server fails, refuses a question or gives no log-probabilities; the prompt is named.
        """
        return self._completions.replicas.gather(_named(request, self._score) for request in requests)

    def release(self, row: int) -> None:
        """Nothing is kept here; the server forgets by itself."""

    async def _score(self, request: ScoreRequest) -> float:
        p_safe = self._p_safe if self._replies is None else partial(self._p_safe_of_replies, self._replies)
        return min([await p_safe(question, request.row) for question in self._questions(request)]) * 2 - 1

    async def _p_safe_of_replies(self, replies: Replies, question: Ids, row: int) -> float:
        """The share of safe among the replies, see `replies`."""
        walk = replies.walk()
        node = next(walk)
        while True:
            listed = await self._likeliest(question + node.ids, list(node.children), row)
            log_p = self._following(node, listed)
            if node is replies.root:
                self._check_mass(float(np.exp(log_p).sum()), listed)
            try:
                node = walk.send(log_p)
            except StopIteration as stop:
                return float(stop.value[0])

    def _following(self, node: Node, listed: Mapping[str, float]) -> LogProbabilities:
        """Log-probabilities of what may follow; what is not listed counts as a verdict does that is not."""
        known = {token_id: self._known(token_id, listed) for token_id in node.children}
        if not node.ids and all(value is None for value in known.values()):
            raise ServerError(f"the guard gives no verdict a place among its {NUM_LIKELIEST} likeliest tokens")
        least = min(listed.values())
        are_safe = all(child.safety == 1 for child in node.children.values())
        unlisted = {
            token_id: -math.inf if child.safety == 1 and not are_safe else least
            for token_id, child in node.children.items()
        }
        values = [unlisted[token_id] if value is None else value for token_id, value in known.items()]
        return np.array([values])

    async def _p_safe(self, question: Ids, row: int) -> float:
        """The share of safe among the verdicts."""
        listed = {start: await self._likeliest(question + start, ids, row) for start, ids in self._next.items()}
        log_p = [self._log_probability(verdict, safety, listed) for verdict, safety in self._verdicts]
        top = max(log_p)
        if all(self._known(verdict[0], listed[()]) is None for verdict, _ in self._verdicts):
            raise ServerError(f"the guard gives no verdict a place among its {NUM_LIKELIEST} likeliest tokens")
        self._check_mass(sum(map(math.exp, log_p)), listed[()])
        # Relative to the likeliest, so that nothing underflows.
        weights = [math.exp(each - top) for each in log_p]
        return sum(w * safety for w, (_, safety) in zip(weights, self._verdicts, strict=True)) / sum(weights)

    async def _likeliest(self, ids: Ids, asked: Sequence[int], row: int) -> Mapping[str, float]:
        """Log-probabilities of the likeliest next tokens, or of those that are asked for."""
        body: dict[str, object] = {"max_tokens": 1, "temperature": 1.0, "logprobs": NUM_LIKELIEST}
        if self._completions.form.extended:
            body |= {"logprob_token_ids": sorted(set(asked)), "return_tokens_as_token_ids": True}
        choice = await self._completions.complete(ids, body, row)
        return _first_logprobs(choice)

    def _log_probability(self, verdict: Ids, safety: float, listed: Mapping[Ids, Mapping[str, float]]) -> float:
        total = 0.0
        for end, token_id in enumerate(verdict):
            likeliest = listed[verdict[:end]]
            value = self._known(token_id, likeliest)
            if value is None:
                # It is no more likely than the least likely that is listed.
                value = -math.inf if safety >= 0.5 else min(likeliest.values())
            total += value
        return total

    def _known(self, token_id: int, listed: Mapping[str, float]) -> float | None:
        """Log-probability listed for a token, by its id, or by its text where the server knows no better."""
        return listed.get(f"token_id:{token_id}", listed.get(self._completions.in_place.piece(token_id)))

    def _check_mass(self, mass: float, listed: Mapping[str, float]) -> None:
        """Warn once when the guard would rather say something else than a verdict."""
        if not self._warned and mass < MIN_VERDICT_MASS:
            self._warned = True
            likeliest = max(listed, key=lambda name: listed[name])
            if (named := re.fullmatch(r"token_id:(\d+)", likeliest)) is not None:
                likeliest = self._completions.in_place.piece(int(named[1]))
            logger.warning(
                "the guard gives its verdicts only %.2f of the probability; it would rather begin with %r: check its "
                "chat template and verdicts",
                mass,
                likeliest,
            )


class _Message(BaseModel):
    content: str | None = None


class _Reply(BaseModel):
    message: _Message


class ChatAnswer(BaseModel):
    """An answer of the chat protocol, as far as it is read here."""

    model: str | None = None
    choices: list[_Reply] = Field(min_length=1)


class ChatGuard:
    """Scores by the verdict that the guard writes: 2 (mean share of safe over its verdicts) - 1.

    The server renders the chat template, and encodes what prompt and trace spell as control tokens as such. So control
    strings of the guard's tokenizer are broken up with a zero-width space before they are sent. Turns are folded until
    they alternate, as most guards' templates demand.
    """

    def __init__(
        self,
        config: GuardServerConfig,
        verdicts: Mapping[str, float],
        control: Collection[str] = (),
        forced: str = "",
    ) -> None:
        """Connect to the server.

        Args:
            config: where it is, and how many verdicts to ask for.
            verdicts: each verdict as the guard words it, and its share of safe in [0, 1].
            control: the control strings of its tokenizer.
            forced: words that may stand before the verdict, as `Safety:` does.

        Raises:
            ServerError: it cannot be reached.
            ConfigError: the model is not to be had there.
        """
        self._replicas = Replicas(config)
        self._model, _ = served_model(self._replicas, config)
        self._samples = config.samples
        self._safety = {verdict.strip().casefold(): safety for verdict, safety in verdicts.items()}
        words = "|".join(re.escape(verdict) for verdict in sorted(self._safety, key=len, reverse=True))
        # Where a line begins: further on a verdict may be denied.
        line = rf"^\W*(?:{re.escape(forced.strip())}\W*)?({words})(?!\w)"
        self._verdict = re.compile(line, re.IGNORECASE | re.MULTILINE)
        self._control = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")

    @property
    def fingerprint(self) -> str:
        """All that is known of the weights: how the server calls them."""
        return f"served as {self._model}"

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order; the same text always scores the same.

        Raises:
            MonitorError: the server fails or refuses, or a reply holds no verdict; the prompt is named.
        """
        return self._replicas.gather(_named(request, self._score) for request in requests)

    def release(self, row: int) -> None:
        """Nothing is kept."""

    async def _score(self, request: ScoreRequest) -> float:
        turns = alternating((*request.prompt.messages, Message(role="assistant", content=request.trace)))
        messages = [{"role": turn.role, "content": self._harmless(turn.content)} for turn in turns]
        body: dict[str, object] = {"model": self._model, "messages": messages, "max_tokens": MAX_REPLY_TOKENS}
        body["temperature"] = 0.0
        if self._samples > 1:
            seed = stable_seed(request.prompt.id, request.trace) % SEEDS
            body |= {"n": self._samples, "temperature": 1.0, "seed": seed}
        answer = await self._replicas.post("/chat/completions", body, request.row, ChatAnswer)
        refuse_other_model(answer.model, self._model)
        if len(answer.choices) != self._samples:
            raise ServerError(f"the guard gave {len(answer.choices)} verdicts of {self._samples}")
        shares = [self._share(reply.message.content or "") for reply in answer.choices]
        return 2 * sum(shares) / len(shares) - 1

    def _share(self, reply: str) -> float:
        """Safety value of the first verdict that begins a line of a reply."""
        found = self._verdict.search(reply)
        if found is None:
            raise ServerError(f"the guard's reply holds no verdict: {reply[:80]!r}")
        return self._safety[found[1].casefold()]

    def _harmless(self, text: str) -> str:
        return self._control.sub(lambda found: f"{found[0][:1]}\u200b{found[0][1:]}", text)


def _first_logprobs(choice: Choice) -> Mapping[str, float]:
    top = choice.logprobs.top_logprobs if choice.logprobs else None
    if not top or not top[0]:
        raise ServerError("the guard's server gives no log-probabilities; `api: chat` reads verdicts in words")
    return top[0]


async def _named(request: ScoreRequest, score: Callable[[ScoreRequest], Awaitable[float]]) -> float:
    """Say which prompt could not be scored."""
    try:
        return await score(request)
    except ServerError as error:
        raise MonitorError(f"the guard behind a server failed on prompt {request.prompt.id!r}: {error}") from error
