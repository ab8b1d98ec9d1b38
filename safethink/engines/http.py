"""The engine for a reasoner behind a server: every row is a request of its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from safethink.defenses.effects import Extension, StopReason, Until
from safethink.engines import ExtendRequest
from safethink.engines.sampling import Sampling
from safethink.engines.stopping import LOOK_BACK, Stopper
from safethink.errors import ConfigError
from safethink.prompts import Prompt
from safethink.seeds import stable_seed
from safethink.servers.completions import SAMPLE, Completions
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt
from safethink.tokens import Tokens

NEVER_BIAS: Final = -100.0
"""Logit bias that bans a token in OpenAI's protocol."""
SEEDS: Final = 2**31
"""Some servers take no larger seed."""


class Piece(NamedTuple):
    """Answer to one request.

    Attributes:
        ids: the new tokens, the one that ends the turn included.
        cut: whether the server stopped at a delimiter, where it may be no end.
    """

    ids: tuple[int, ...]
    cut: bool


class Stops(NamedTuple):
    """Stop conditions that a server is given.

    Attributes:
        texts: strings that end an answer.
        ids: tokens that do.
    """

    texts: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()

    def body(self) -> dict[str, object]:
        """Request fields of vLLM and SGLang for them, which also say that what they stop at belongs to the answer."""
        if not self.texts and not self.ids:
            return {}
        kept = {"include_stop_str_in_output": True, "no_stop_trim": True}
        return {"stop": list(self.texts), "stop_token_ids": list(self.ids), **kept}


class HttpEngine:
    """Continues token ids by asking a server, which keeps what it has read in its own prefix cache.

    Where an extension ends is decided here, on the same tokens and by the same rules as with local weights; a server
    that can is told the delimiters, so that it does not run far past them. Whatever it runs past is dropped.

    Equal ids and seeds give equal tokens, as far as the server computes a row alike whatever runs beside it. Greedy
    thinking is the same in one go and step by step; sampled thinking is not, because each request draws afresh.

    A server that takes text alone is sent the text of the ids, where that encodes to the same ids. What comes back is
    encoded in place. It names no token that ends the turn; the tokenizer's own takes its place.
    """

    def __init__(
        self,
        completions: Completions,
        thought: Thought,
        stopper: Stopper,
        sampling: Sampling,
        never_ids: Collection[int] = (),
    ) -> None:
        """Continue with the model behind `completions`.

        Args:
            completions: the server.
            thought: how the reasoner's thinking is written down.
            stopper: where steps, thinking and answers end.
            sampling: how the next token is chosen.
            never_ids: tokens that are never chosen.

        Raises:
            ConfigError: the server can neither be told to sample so, nor show where the thinking closes.
        """
        self._completions = completions
        self._thought = thought
        self._stopper = stopper
        form = completions.form
        self._sends_ids = form.prompts == "ids"
        self._knows_stops = form.prompts == "ids" and form.extended
        if not form.extended:
            _refuse_unsayable(thought, sampling)
        self._sampling: dict[str, object] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        if form.extended:
            self._sampling["top_k"] = sampling.top_k or -1
        if form.extended and never_ids:
            self._sampling["logit_bias"] = {str(token_id): NEVER_BIAS for token_id in never_ids}

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """Continue every request to its own stop, in order.

        Raises:
            ServerError: a request found no answer that can be used.
        """
        return self._completions.replicas.gather(map(self._extend, requests))

    def release(self, row: int) -> None:
        """No-op: the server manages its own KV cache."""

    def refuse_unwritable(self, injected: tuple[int, ...]) -> None:
        """Refuse a prefix whose text merges with what it is injected behind, where the server takes text alone.

        It stands behind an opened prompt, or behind a step that ended in its delimiter; where steps end otherwise, only
        the step itself can tell.

        Raises:
            ConfigError: naming the prefix and what it merges with.
        """
        if self._sends_ids or not injected:
            return
        in_place, family = self._completions.in_place, self._thought.family
        delimiters = () if family.step_tokens or family.sentences else family.step_delimiter
        # A full stop and a delimiter are one token in many vocabularies, a letter and a delimiter seldom.
        ends = [end + delimiter for delimiter in delimiters for end in (SAMPLE, SAMPLE.rstrip("."))]
        before = [(repr(end[-3:]), in_place.encode(end)) for end in ends]
        before.append(("the opened prompt", open_prompt(self._thought, Prompt.from_text(SAMPLE))))
        for what, ids in before:
            if in_place.is_writable(ids) and not in_place.is_writable(ids + injected):
                raise ConfigError(
                    f"prefix {self._thought.decode(injected)!r}: the server takes text alone, and behind {what} the "
                    "prefix's text merges into other tokens; use another prefix, or a server that takes token ids"
                )

    async def _extend(self, request: ExtendRequest) -> Extension:
        """Ask until the row stops; more than once only where a delimiter that ends nothing stopped the server."""
        new: list[int] = []
        text = list(request.ids[request.step_start :])
        before = request.ids[max(0, request.step_start - LOOK_BACK) : request.step_start]
        while len(new) < request.max_new_tokens:
            room = request.max_new_tokens - len(new)
            piece = await self._ask(request, request.ids + tuple(new), room)
            for token_id in piece.ids[:room]:
                new.append(token_id)
                text.append(token_id)
                if reason := self._stopper.reason(text, request.until, before):
                    return self._extension(request, new, reason)
            if not piece.cut:
                break
        return self._extension(request, new, "length")

    def _extension(self, request: ExtendRequest, new: list[int], reason: StopReason) -> Extension:
        ids = tuple(new)
        if ids and not self._sends_ids and reason != "end":
            # Cut off from what followed, the text may be other tokens, and half a character is no text.
            ids = self._completions.in_place.continuation(request.ids, _whole(self._thought.decode(ids)))
        return Extension(Tokens.sampled(ids), reason)

    async def _ask(self, request: ExtendRequest, ids: tuple[int, ...], room: int) -> Piece:
        """Continue `ids` by at most `room` tokens."""
        stops = self._stops(request.until) if self._knows_stops else Stops()
        # Each request has random numbers of its own: one seed for all would draw every step alike.
        seed = stable_seed(request.seed, len(ids)) % SEEDS
        body = {"max_tokens": room, "seed": seed, **self._sampling, **stops.body()}
        choice = await self._completions.complete(ids, body, request.row)
        if choice.token_ids is not None:
            new = tuple(choice.token_ids)
        else:
            text = _whole(choice.text) if choice.finish_reason == "length" else choice.text
            new = self._completions.in_place.continuation(ids, text)
        if choice.finish_reason == "length":
            return Piece(new, cut=False)
        return self._stopped(new, stops)

    def _stopped(self, new: tuple[int, ...], stops: Stops) -> Piece:
        """Tokens of a server that stopped by itself: at a delimiter, or because the turn ended."""
        if new and self._stopper.reason(new[-1:], Until.ANSWER) == "end":
            return Piece(new, cut=False)
        if new and (new[-1] in stops.ids or any(tag in self._thought.decode(new) for tag in stops.texts)):
            return Piece(new, cut=True)
        end_id = self._thought.tokenizer.eos_token_id
        return Piece((*new, end_id) if isinstance(end_id, int) else new, cut=False)

    def _stops(self, until: Until) -> Stops:
        """Stop conditions of an extension; never later than the extension ends, perhaps earlier."""
        family = self._thought.family
        tag = self._thought.opener if until in (Until.ANSWER, Until.ANSWER_STEP) else self._thought.closer
        # Steps of a number of tokens, or of a sentence, end where no string says so.
        by_delimiter = until in (Until.STEP, Until.ANSWER_STEP) and not family.step_tokens and not family.sentences
        delimiters = family.step_delimiter if by_delimiter else ()
        last = tag.parts[-1] if tag.parts else None
        if isinstance(last, int):
            return Stops(delimiters, (last,))
        return Stops((*delimiters, tag.text) if tag.is_spelled else delimiters)


def _whole(text: str) -> str:
    """Text without the half of a character that a limit left at its end; it will be sampled again."""
    return text.rstrip("\ufffd") or text


def _refuse_unsayable(thought: Thought, sampling: Sampling) -> None:
    """Refuse what a server that knows OpenAI's own fields alone cannot be asked for, or hides."""
    if sampling.top_k:
        raise ConfigError("sampling.top_k: this server knows OpenAI's own fields alone, which have no top_k")
    known = thought.tokenizer.added_tokens_decoder
    if any(isinstance(part, int) and part in known and known[part].special for part in thought.closer.parts):
        raise ConfigError(
            f"this server leaves special tokens out of what it returns, and {thought.closer.text!r} has one: where "
            "the thinking closes could not be seen; use a server that returns token ids, such as vLLM"
        )
