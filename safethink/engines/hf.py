"""The engine for local `transformers` models: a batched decode loop over rows that stop, roll back and resume."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safethink.defenses.effects import Extension, StopReason, Until, View
from safethink.engines import ExtendRequest, LookRequest, Sampling, StateRequest, WeighRequest
from safethink.engines.kv import RaggedBatch, RowKV
from safethink.engines.sampling import choose, uniforms
from safethink.engines.soft import RowTable
from safethink.engines.stopping import Stopper
from safethink.fingerprints import model_hash
from safethink.tokens import Tokens

SHORT_TOKENS = 8
"""Rows that lack no more than this are brought up to date together with the first decode step."""
MAX_IDLE_SHARE = 0.2
"""Finished rows stay in the batch until they make up this share; leaving costs a copy of the cache."""


@dataclass
class EngineStats:
    """What an engine has done so far.

    Attributes:
        forwarded: tokens sent through the model, padding included.
        sampled: tokens produced.
        seconds: time spent.
    """

    forwarded: int = 0
    sampled: int = 0
    seconds: float = 0.0


_Request: TypeAlias = ExtendRequest | LookRequest | StateRequest | WeighRequest


@dataclass
class _Decoding:
    """One row while it is being decoded."""

    request: ExtendRequest
    ids: list[int]
    stop: StopReason | None = None
    text: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.text = self.ids[self.request.step_start :]

    def append(self, token_id: int, stopper: Stopper) -> None:
        """Take the next token and see whether it is the last."""
        self.ids.append(token_id)
        self.text.append(token_id)
        self.stop = stopper.reason(self.text, self.request.until)
        if self.stop is None and len(self.ids) - len(self.request.ids) == self.request.max_new_tokens:
            self.stop = "length"

    def extension(self) -> Extension:
        """What was produced."""
        assert self.stop is not None, "still decoding"
        return Extension(Tokens.sampled(tuple(self.ids[len(self.request.ids) :])), self.stop)


class HfEngine:
    """Continues token ids with a causal language model; keeps each row's keys and values between calls.

    A row that resumes elsewhere than where it stopped (a rolled back step, an injected prefix) forwards only the
    tokens from the first difference on.
    """

    def __init__(self, model: PreTrainedModel, stopper: Stopper, sampling: Sampling) -> None:
        """Decode with `model`, ending extensions where `stopper` says.

        Args:
            model: a causal language model in eval mode.
            stopper: where steps, thinking and answers end.
            sampling: how the next token is chosen.
        """
        self.stats = EngineStats()
        self._model = model
        self._stopper = stopper
        self._sampling = sampling
        self._table = RowTable(model)
        never = getattr(model.generation_config, "suppress_tokens", None) or []
        self._never = torch.tensor(never, dtype=torch.long, device=model.device)
        self._read: dict[int, RowKV] = {}

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """Continue every request to its own stop, in order."""
        started = time.perf_counter()
        rows = [_Decoding(request, list(request.ids)) for request in requests]
        for row in rows:
            row.stop = "length" if row.request.max_new_tokens < 1 else None
        live = [row for row in rows if row.stop is None]
        if live:
            self._decode(live)
        extensions = [row.extension() for row in rows]
        self.stats.sampled += sum(len(extension.tokens) for extension in extensions)
        self.stats.seconds += time.perf_counter() - started
        return extensions

    @torch.inference_mode()
    def look(self, requests: Sequence[LookRequest]) -> list[View]:
        """Show what may follow each request, in order."""
        if not requests:
            return []
        batch, new = self._lay_out(requests, [request.ids for request in requests], [1] * len(requests))
        if any(request.layer is not None for request in requests):
            logits, layers = batch.extend_deeply(new)
        else:
            logits, layers = batch.extend(new, num_logits=1)[:, -1], None
        logits = self._possible(logits)
        self._keep_all(batch, requests, [request.ids for request in requests])
        scores = logits.double().log_softmax(-1)
        entropies = torch.special.entr(scores.exp()).sum(-1).tolist()
        top = scores.topk(min(max(request.top_k for request in requests), scores.shape[-1]))
        return [
            View(
                token_ids=tuple(top.indices[lane, : request.top_k].tolist()),
                log_probabilities=tuple(top.values[lane, : request.top_k].tolist()),
                entropy=entropies[lane],
                hidden=() if layers is None or request.layer is None else tuple(layers[request.layer, lane].tolist()),
            )
            for lane, request in enumerate(requests)
        ]

    @torch.inference_mode()
    def weigh(self, requests: Sequence[WeighRequest]) -> list[tuple[float, ...]]:
        """The log-probability of each token of each continuation, in nats, in order."""
        if not requests:
            return []
        rows = [request.ids + request.continuation for request in requests]
        # A token's probability stands at the token before it.
        num_asked = [len(request.continuation) + 1 for request in requests]
        batch, new = self._lay_out(requests, rows, num_asked)
        logits = self._possible(batch.extend(new, num_logits=max(num_asked)))
        self._keep_all(batch, requests, rows)
        weighed: list[tuple[float, ...]] = []
        for lane, request in enumerate(requests):
            scores = logits[lane, -num_asked[lane] : -1].double().log_softmax(-1)
            tokens = torch.tensor(request.continuation, dtype=torch.long, device=scores.device)
            weighed.append(tuple(scores.gather(1, tokens[:, None])[:, 0].tolist()))
        return weighed

    @torch.inference_mode()
    def states(self, requests: Sequence[StateRequest], layer: int) -> Float[Tensor, "rows hidden"]:
        """The hidden state of each request's last token, in order, at `layer` as transformers counts them."""
        batch, new = self._lay_out(requests, [request.ids for request in requests], [1] * len(requests))
        _, layers = batch.extend_deeply(new)
        self._keep_all(batch, requests, [request.ids for request in requests])
        return layers[layer]

    def release(self, row: int) -> None:
        """Forget what was read of `row`."""
        self._read.pop(row, None)

    def add_rows(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """Make embedding rows readable and return their token ids; see `RowTable.add`."""
        return self._table.add(rows)

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """What the reasoner's layers read for token ids; see `RowTable.rows`."""
        return self._table.rows(ids)

    def is_reasoner(self, sha256: str) -> bool:
        """Whether `sha256` is the hash of this model's weights, rounded or not."""
        return sha256 == self._rounded_hash or sha256 == self._exact_hash

    @cached_property
    def _rounded_hash(self) -> str:
        return model_hash(self._model, rounded=True)

    @cached_property
    def _exact_hash(self) -> str:
        return model_hash(self._model)

    @torch.inference_mode()
    def _decode(self, rows: list[_Decoding]) -> None:
        """Decode `rows` side by side until each has stopped."""
        requests = [row.request for row in rows]
        batch, new = self._lay_out(requests, [request.ids for request in requests], [1] * len(rows))
        logits = batch.extend(new, num_logits=1)[:, -1]
        num_tokens = max(row.request.max_new_tokens for row in rows)
        seeds, starts = [row.request.seed for row in rows], [len(row.ids) for row in rows]
        randoms = uniforms(seeds, starts, num_tokens).to(logits.device)
        lanes = rows
        for position in range(num_tokens):
            tokens = choose(self._possible(logits), randoms[:, position], self._sampling)
            for lane, (row, token_id) in enumerate(zip(lanes, tokens.tolist(), strict=True)):
                if row.stop is None:
                    row.append(token_id, self._stopper)
                    self._keep(row, batch, lane)
            going = [lane for lane, row in enumerate(lanes) if row.stop is None]
            if not going:
                break
            if len(going) <= (1 - MAX_IDLE_SHARE) * len(lanes):
                kept = torch.tensor(going, device=logits.device)
                batch.select(kept)
                lanes, tokens, randoms = [lanes[lane] for lane in going], tokens[kept], randoms[kept]
            logits = batch.extend(tokens[:, None], num_logits=1)[:, -1]
        self.stats.forwarded += batch.num_forwarded

    def _possible(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """The logits, without the tokens that the generation config suppresses, as `generate` and its servers do."""
        return logits.index_fill(-1, self._never, -torch.inf) if len(self._never) else logits

    def _lay_out(
        self, requests: Sequence[_Request], rows: Sequence[tuple[int, ...]], num_asked: Sequence[int]
    ) -> tuple[RaggedBatch, Int[Tensor, "batch new"]]:
        """Bring `requests` up to date and lay `rows`, which go on from them, side by side."""
        self._catch_up(requests)
        known = [self._read.get(request.row, RowKV()) for request in requests]
        return RaggedBatch.lay_out(self._model, rows, known, num_asked, self._table)

    def _catch_up(self, requests: Sequence[_Request]) -> None:
        """Read long unread stretches first, in groups of similar length; rows with equal ids are read once."""
        groups: dict[int, dict[tuple[int, ...], RowKV]] = defaultdict(dict)
        readers: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for request in requests:
            known = self._read.get(request.row, RowKV())
            num_missing = len(request.ids) - known.common(request.ids)
            if num_missing > SHORT_TOKENS:
                # A group holds lengths within a factor of four, which bounds what is read twice.
                groups[num_missing.bit_length() // 2][request.ids] = known
                readers[request.ids].append(request.row)
        for group in groups.values():
            batch, _ = RaggedBatch.read(self._model, list(group), list(group.values()), self._table)
            for lane, ids in enumerate(group):
                self._read.update(dict.fromkeys(readers[ids], batch.row(lane, ids)))
            self.stats.forwarded += batch.num_forwarded

    def _keep_all(self, batch: RaggedBatch, requests: Sequence[_Request], rows: Sequence[tuple[int, ...]]) -> None:
        """Keep what was read of every row."""
        for lane, (request, ids) in enumerate(zip(requests, rows, strict=True)):
            self._read[request.row] = batch.row(lane, ids)
        self.stats.forwarded += batch.num_forwarded

    def _keep(self, row: _Decoding, batch: RaggedBatch, lane: int) -> None:
        """Keep what was read of a row that has just stopped and may resume; its last token was not read."""
        if row.stop is not None and row.request.until is not Until.ANSWER:
            self._read[row.request.row] = batch.row(lane, row.ids[:-1])


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that ends a turn: the model's and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    named = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    return frozenset(token_id for token_id in named if isinstance(token_id, int))
