# pyright: standard
"""The engine for local `transformers` models."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.defenses.effects import Extension, View
from safethink.engines import ExtendRequest, HiddenStates, LookRequest, StateRequest, TokenStates, WeighRequest
from safethink.engines.decoding import Decoder
from safethink.engines.reader import RowReader
from safethink.engines.sampling import Sampling, can_choose, no_choice
from safethink.engines.stopping import Stopper
from safethink.engines.truncation import candidates
from safethink.errors import CacheFullError
from safethink.kv_cache import ReadRequest
from safethink.models.hashes import adapter_hash, model_hash

Request = TypeVar("Request")
Seen = TypeVar("Seen")
UNDERFLOW: Final = -1000.0
"""Logits so far below the highest have probability 0 in float64."""


@dataclass
class EngineStats:
    """Counters of an engine: tokens and time.

    Attributes:
        forwarded: tokens sent through the model.
        sampled: tokens produced.
        seconds: time spent.
    """

    forwarded: int = 0
    sampled: int = 0
    seconds: float = 0.0


class HfEngine:
    """Continues token ids with a causal language model; keeps what was read of each row between calls.

    A row that resumes elsewhere than where it stopped (a rolled back step, an injected prefix) forwards only the
    tokens from the first difference on.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stopper: Stopper,
        sampling: Sampling,
        max_rows: int | None = None,
        max_cached_tokens: int | None = None,
    ) -> None:
        """Decode with `model`, ending extensions where `stopper` says.

        Args:
            model: a causal language model in eval mode.
            stopper: where steps, thinking and answers end.
            sampling: how the next token is chosen.
            max_rows: the most rows decoded side by side; None for all that are submitted. Halved when memory runs out.
            max_cached_tokens: the most tokens whose keys and values are kept; None for no limit.
        """
        self.stats = EngineStats()
        self._model = model
        self._reader = RowReader(model, max_cached_tokens)
        never = getattr(model.generation_config, "suppress_tokens", None) or []
        self._decoder = Decoder(self._reader, stopper, sampling, never, max_rows)

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """Continue every request to its own stop, in order.

        Raises:
            LogitsError: what the model says of a row's next token is no number; that row is given up.
        """
        self.submit(requests)
        extensions: dict[int, Extension] = {}
        while len(extensions) < len(requests):
            extensions |= self.collect([request.row for request in requests if request.row not in extensions])
        return [extensions[request.row] for request in requests]

    def submit(self, requests: Sequence[ExtendRequest]) -> None:
        """Begin to continue rows; `collect` says what came of them."""
        self._decoder.submit(requests)

    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        """Decode until a share of `rows`, which are under way, has stopped; return what was produced, by row."""
        started = time.perf_counter()
        extensions = self._decoder.collect(rows, share)
        self.stats.sampled += sum(len(extension.tokens) for extension in extensions.values())
        self._count(started)
        return extensions

    @torch.inference_mode()
    def look(self, requests: Sequence[LookRequest]) -> list[View]:
        """Show what may follow each request, in order.

        Raises:
            LogitsError: what the model says of a row's next token is no number.
        """
        started = time.perf_counter()
        views: dict[int, View] = {}
        for layer in {request.layer for request in requests}:
            asked = [request for request in requests if request.layer == layer]
            seen = self._in_halves(asked, lambda some, layer=layer: self._look(some, layer))
            views |= zip((request.row for request in asked), seen, strict=True)
        self._count(started)
        return [views[request.row] for request in requests]

    @torch.inference_mode()
    def weigh(self, requests: Sequence[WeighRequest]) -> list[tuple[float, ...]]:
        """The log-probability of each token of each continuation, in nats, in order.

        Raises:
            LogitsError: what the model says of a row's next token is no number.
        """
        started = time.perf_counter()
        weighed = self._in_halves(requests, self._weigh)
        self._count(started)
        return weighed

    @torch.inference_mode()
    def states(self, requests: Sequence[StateRequest], layer: int) -> HiddenStates:
        """The hidden state of each request's last token, in order, at `layer` as transformers counts them.

        From the first call on they are kept as tokens are read, and cost no forward of their own.
        """
        started = time.perf_counter()
        self._reader.watch(layer)
        states = self._in_halves(requests, self._states)
        self._count(started)
        return torch.stack(states)

    def keep_states(self, layer: int) -> None:
        """Keep the states at `layer` of all tokens read from now on."""
        self._reader.watch(layer, every_token=True)

    @torch.inference_mode()
    def token_states(self, requests: Sequence[StateRequest], layer: int) -> list[TokenStates]:
        """The hidden states of each request's last `num_tokens` tokens, in order, at `layer`.

        Those of tokens that were read behind a prompt are kept and cost no forward of their own; see `keep_states`.
        """
        started = time.perf_counter()
        self._reader.watch(layer, every_token=True)
        states = self._in_halves(requests, self._token_states)
        self._count(started)
        return states

    def _look(self, requests: Sequence[LookRequest], layer: int | None) -> list[View]:
        logits, states = self._reader.look_back([ReadRequest(request.row, request.ids) for request in requests], layer)
        hidden = [tuple(state.tolist()) for state in states] or [()] * len(requests)
        return [
            _view(self._possible(row_logits[-1], request.row, len(request.ids)), request.top_k, row_hidden)
            for request, row_logits, row_hidden in zip(requests, logits, hidden, strict=True)
        ]

    def _weigh(self, requests: Sequence[WeighRequest]) -> list[tuple[float, ...]]:
        # A token's probability stands at the token before it.
        readings = [
            ReadRequest(request.row, request.ids + request.continuation, len(request.continuation) + 1)
            for request in requests
        ]
        logits, _ = self._reader.look_back(readings)
        weighed: list[tuple[float, ...]] = []
        for request, row_logits in zip(requests, logits, strict=True):
            possible = self._possible(row_logits[:-1], request.row, len(request.ids))
            weighed.append(_log_probabilities(possible, request.continuation))
        return weighed

    def _possible(
        self, logits: Float[Tensor, "*asked vocab"], row: int, num_tokens: int
    ) -> Float[Tensor, "*asked vocab"]:
        """The logits of tokens that may be chosen after the first `num_tokens` of a row, or later.

        Raises:
            LogitsError: they are no numbers.
        """
        possible = self._decoder.possible(logits)
        if not can_choose(possible).all():
            self._reader.clear()
            raise no_choice(row, num_tokens, possible)
        return possible

    def _states(self, requests: Sequence[StateRequest]) -> list[Float[Tensor, " hidden"]]:
        self._reader.open({request.row: request.ids for request in requests})
        return list(self._reader.states([request.row for request in requests]))

    def _token_states(self, requests: Sequence[StateRequest]) -> list[TokenStates]:
        ids = {request.row: request.ids for request in requests}
        self._reader.open(ids, {request.row: request.num_tokens for request in requests})
        return [self._reader.token_states(request.row, request.num_tokens) for request in requests]

    def _in_halves(self, requests: Sequence[Request], work: Callable[[Sequence[Request]], list[Seen]]) -> list[Seen]:
        """Work on all requests, or on either half where memory is too small for all; what was read is forgotten then.

        Raises:
            CacheFullError: a single row does not fit into memory.
        """
        try:
            return work(requests)
        except (torch.OutOfMemoryError, CacheFullError):
            if len(requests) < 2 and self._reader.store.num_rows < 2:
                raise
        self._reader.clear()
        middle = (len(requests) + 1) // 2
        halves = [half for half in (requests[:middle], requests[middle:]) if half]
        return [seen for half in halves for seen in self._in_halves(half, work)]

    def release(self, row: int) -> None:
        """Forget what was read of `row`, and stop continuing it."""
        self._decoder.release(row)
        self._reader.drop(row)

    def add_rows(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """Make input rows readable and return their token ids; see `RowTable.add`."""
        return self._reader.table.add(rows)

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input rows of token ids; see `RowTable.rows`."""
        return self._reader.table.rows(ids)

    def row_parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a row; see `RowTable.row_parts`."""
        return self._reader.table.row_parts()

    def is_reasoner(self, sha256: str) -> bool:
        """Whether `sha256` is the hash of this model's weights, rounded or not, or of the adapter that is in them."""
        return sha256 == adapter_hash(self._model) or sha256 == self._rounded_hash or sha256 == self._exact_hash

    @cached_property
    def _rounded_hash(self) -> str:
        return model_hash(self._model, rounded=True)

    @cached_property
    def _exact_hash(self) -> str:
        return model_hash(self._model)

    def _count(self, started: float) -> None:
        self.stats.seconds += time.perf_counter() - started
        self.stats.forwarded = self._reader.store.num_forwarded


def _log_probabilities(logits: Float[Tensor, "tokens vocab"], token_ids: Sequence[int]) -> tuple[float, ...]:
    """The log-probability of each of some tokens, in nats, by the logits at its own place."""
    # Token by token, so that what is computed of a large vocabulary stays in a processor's cache.
    return tuple(
        float(scores[token_id].double() - scores.double().logsumexp(-1))
        for scores, token_id in zip(logits, token_ids, strict=True)
    )


def _view(logits: Float[Tensor, " vocab"], top_k: int, hidden: tuple[float, ...]) -> View:
    """Top-k log-probabilities and entropy (nats) of the next token, and a hidden state.

    H = log Z - sum_v e^{l_v} l_v / Z,    l_v a logit less the highest, Z = sum_v e^{l_v}
    """
    num_shown = min(top_k, len(logits))
    tokens = candidates(logits[None], max(1, num_shown))[1]
    values, order = (each[:num_shown] for each in logits[tokens].sort(descending=True, stable=True))
    peak = logits.amax()
    # A token that is banned weighs nothing; -inf times nothing would be no number.
    scores = logits.to(torch.float64, copy=True).sub_(peak).clamp_(min=UNDERFLOW)
    masses = scores.exp()
    total = masses.sum()
    entropy = total.log() - masses.dot(scores) / total
    return View(
        token_ids=tuple(tokens[order].tolist()),
        log_probabilities=tuple((values.double() - peak - total.log()).tolist()),
        entropy=float(entropy),
        hidden=hidden,
    )
