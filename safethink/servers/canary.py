# pyright: standard
"""A check of a server's prefix cache before a run relies on it, for models with recurrent layers.

A token's keys and values are the same wherever a prompt is cut, so a cached piece of them is right or is another
prompt's. The state of a recurrent layer (Mamba, linear attention, short convolutions) belongs to one position alone: a
server must have kept it there, and go on from there. Where it does not, what it says is wrong and reads well; vLLM and
SGLang have both had such releases. A guarded run appends to a prompt and rolls it back at every step.

So the same greedy continuation is asked for with and without a cached beginning. Attention alone is not asked about: a
text that spans several blocks of a hybrid's cache, of up to two thousand tokens each, is not free.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedConfig

from safethink.errors import ServerError
from safethink.servers.completions import MISUNDERSTOOD, Choice, Completions, Logprobs
from safethink.servers.replicas import RefusedError, UnreachableError

logger = logging.getLogger(__name__)

STATELESS: Final = frozenset({"full_attention", "sliding_attention", "chunked_attention", "attention", "mlp", "moe"})
"""Kinds of layers that keep nothing, or keep it token by token."""
STATE_KEYS: Final = ("mamba", "ssm", "conv_kernel", "conv_L_cache", "linear_attn", "lru_width", "rwkv")
"""Parts of a configuration's keys that give the size of a recurrent state; for those that name no kinds of layers."""

MAX_PROMPT_TOKENS: Final = 4200
"""Two blocks of the largest hybrids' caches in vLLM, which caches whole blocks alone."""
NUM_NEW: Final = 24
"""Tokens of a continuation."""
NUM_APPENDED: Final = 9
"""Tokens of it that are appended to the prompt; no multiple of any block."""
LOGPROB_TOLERANCE: Final = 0.5
"""Difference of log-probabilities, in nats, that counts for nothing: four steps of a bfloat16 logit between 16 and 32.
A cached and a fresh prefix are read by other kernels in other batches, and a wrong state is off by several nats."""
LINE: Final = "Day {day}: {left} boats left the harbour, and {back} of them came back before the night.\n"
OTHER_END: Final = "Wait, this is not about boats. Let me count the days of the week again:"


def has_recurrent_layers(config: PreTrainedConfig) -> bool:
    """Whether a model keeps a state that belongs to one position, besides keys and values or instead of them."""
    text = config.get_text_config()
    kinds = {kind for name in ("layer_types", "layers_block_type") for kind in getattr(text, name, None) or ()}
    return bool(kinds - STATELESS) or any(part in key for key in text.to_dict() for part in STATE_KEYS)


def check_if_recurrent(completions: Completions, config: PreTrainedConfig) -> None:
    """Check the prefix cache where the model has recurrent layers; nothing is asked of others.

    Args:
        completions: the server.
        config: the model's own.

    Raises:
        ServerError: as `check`.
    """
    if has_recurrent_layers(config):
        own = getattr(config.get_text_config(), "max_position_embeddings", None)
        limits = [limit for limit in (own, completions.context_tokens) if limit is not None]
        check(completions, min(limits, default=None))


def check(completions: Completions, context_tokens: int | None) -> None:
    """Check the prefix cache of each replica with five requests of a few tokens; one that is down is left out.

    Args:
        completions: the server.
        context_tokens: how many tokens it lets the model attend to; None where nobody says.

    Raises:
        ServerError: a replica goes on otherwise behind a cached prefix; says which of its flags to change.
    """
    room = min(MAX_PROMPT_TOKENS, (context_tokens or MAX_PROMPT_TOKENS) - 2 * NUM_NEW)
    alone = completions.each_replica()
    completions.replicas.gather(_check(each, room, is_single=len(alone) == 1) for each in alone)


@dataclass(frozen=True, slots=True)
class Reply:
    """A greedy continuation.

    Attributes:
        tokens: ids, or texts where the server gives no ids.
        logprobs: the log-probability of each; empty where the server gives none.
        leads: how far each is ahead of the second likeliest, in nats; None where that is not known.
        ended: whether the turn is over behind them.
    """

    tokens: tuple[object, ...]
    logprobs: tuple[float, ...] = ()
    leads: tuple[float | None, ...] = ()
    ended: bool = False

    @classmethod
    def of(cls, choice: Choice) -> Reply:
        """The continuation in a response."""
        listed = choice.logprobs or Logprobs()
        tokens = choice.token_ids if choice.token_ids is not None else listed.tokens
        known = [each for each in listed.token_logprobs or () if each is not None]
        return cls(
            tuple(choice.text if tokens is None else tokens),
            tuple(known) if len(known) == len(listed.token_logprobs or ()) else (),
            tuple(map(_lead, listed.top_logprobs or ())),
            choice.finish_reason == "stop",
        )

    def after(self, num_tokens: int) -> Reply:
        """The same without its first tokens."""
        rest = slice(num_tokens, None)
        return Reply(self.tokens[rest], self.logprobs[rest], self.leads[rest], self.ended)


def _lead(top: Mapping[str, float] | None) -> float | None:
    best = sorted((top or {}).values(), reverse=True)
    return best[0] - best[1] if len(best) > 1 else None


def difference(fresh: Reply, cached: Reply) -> str | None:
    """First difference of a continuation behind a cached prefix from that behind a fresh one; None where there is none.

    Where they part at a near-tie, either may be right, and what follows is not comparable.
    """
    num_weighed = min(len(fresh.logprobs), len(cached.logprobs))
    for place, (there, here) in enumerate(zip(fresh.tokens, cached.tokens, strict=False)):
        lead = fresh.leads[place] if place < len(fresh.leads) else None
        if there != here and (lead is None or lead > LOGPROB_TOLERANCE):
            return f"token {place + 1} is {here!r} instead of {there!r}"
        if place < num_weighed and abs(fresh.logprobs[place] - cached.logprobs[place]) > LOGPROB_TOLERANCE:
            said, right = cached.logprobs[place], fresh.logprobs[place]
            return f"the log-probability of token {place + 1} is {said:.2f} instead of {right:.2f}"
        if there != here:
            return None
    shorter = min(fresh, cached, key=lambda each: len(each.tokens))
    if shorter.ended and len(fresh.tokens) != len(cached.tokens):
        return f"it has {len(cached.tokens)} tokens instead of {len(fresh.tokens)}"
    return None


async def _check(completions: Completions, room: int, is_single: bool) -> None:
    """Ask one replica."""
    url = completions.replicas.urls[0]
    try:
        said = await _differences(completions, room)
    except (RefusedError, UnreachableError) as error:
        if is_single and isinstance(error, UnreachableError):
            raise
        logger.warning("whether the prefix cache of %s is right could not be checked: %s", url, error)
        return
    for how, what in said.items():
        if what is not None:
            raise ServerError(
                f"the server at {url} goes on otherwise {how}, because its prefix cache is wrong for this model's "
                f"recurrent layers: {what}; start it without: `--no-enable-prefix-caching` of vLLM (or try another "
                "`--mamba-cache-mode`), `--disable-radix-cache` of SGLang"
            )


async def _differences(completions: Completions, room: int) -> dict[str, str | None]:
    """Each difference, or None, by how the prompt came to be cached."""
    whole, branched = _prompts(completions, room)
    ask = _Asker(completions)
    # Nobody has read this beginning before, so nothing of it is cached.
    fresh = Reply.of(await ask(whole))
    said = {"when a prompt is asked again": difference(fresh, Reply.of(await ask(whole)))}
    ids = [each for each in fresh.tokens[:NUM_APPENDED] if isinstance(each, int)]
    if completions.form.prompts == "ids" and len(ids) == NUM_APPENDED < len(fresh.tokens):
        appended = Reply.of(await ask((*whole, *ids)))
        said["behind its own words"] = difference(fresh.after(NUM_APPENDED), appended)
    if completions.form.extended:
        # The other end first, while the beginning is cached; then in a cache of its own, where nothing is.
        cached = Reply.of(await ask(branched))
        said["after a rollback"] = difference(Reply.of(await ask(branched, salt=secrets.token_hex(32))), cached)
    return said


class _Asker:
    """Asks for greedy continuations, with log-probabilities where the server takes that."""

    def __init__(self, completions: Completions) -> None:
        self._completions = completions
        self._logprobs: dict[str, object] = {"logprobs": 2}
        if completions.form.extended:
            self._logprobs["return_tokens_as_token_ids"] = True

    async def __call__(self, ids: Sequence[int], salt: str | None = None) -> Choice:
        """Continue `ids`; a `salt` of its own keeps a prompt from everything that others have cached."""
        body: dict[str, object] = {"max_tokens": NUM_NEW, "temperature": 0.0}
        if salt is not None:
            body["cache_salt"] = salt
        try:
            return await self._completions.complete(ids, body | self._logprobs, row=0)
        except RefusedError as error:
            if error.status not in MISUNDERSTOOD or not self._logprobs:
                raise
            self._logprobs = {}
            return await self._completions.complete(ids, body, row=0)


def _prompts(completions: Completions, room: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A text that no server has read, and another that parts from it after three quarters."""
    encode = completions.in_place.encode
    nonce = f"{secrets.token_hex(8)}\n"
    lines = [LINE.format(day=day, left=day % 7 + 3, back=day % 3 + 1) for day in range(1, MAX_PROMPT_TOKENS)]
    opening = len(encode(nonce + OTHER_END))
    num_lines = max(1, (room - opening) // len(encode(lines[-1])))
    kept = lines[: 3 * num_lines // 4]
    return encode(nonce + "".join(lines[:num_lines])), encode(nonce + "".join(kept) + OTHER_END)
