# pyright: standard
"""Prefix caching for monitors: conversations that grow are read side by side, each token about once.

The only place where a monitor touches a KV cache. Axes: batch (conversations of one forward), asked and new (last
tokens whose logits are read), vocab.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink import kv_cache
from safethink.errors import MonitorError
from safethink.kv_cache.choose import choose_store
from safethink.kv_cache.hybrid_store import HybridStore
from safethink.models.hashes import model_hash
from safethink.models.loading import context_window
from safethink.models.numerics import Numerics

Model = TypeVar("Model", bound=PreTrainedModel)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation to be brought up to date.

    Attributes:
        key: what is read is kept under it.
        ids: the whole of it.
        num_kept: tokens that the next reading of the same key will share; what follows them is forgotten.
        num_asked: the logits after the last so many tokens are asked for.
    """

    key: int
    ids: tuple[int, ...]
    num_kept: int
    num_asked: int = 1


class ReadConversations:
    """Conversations that have been read side by side.

    Attributes:
        logits: after the last tokens of each, and after those that were read along; where more are asked for of one
            than of another, the others' first ones mean nothing.
    """

    def __init__(
        self, reader: ConversationReader, readings: Sequence[Conversation], logits: Float[Tensor, "batch asked vocab"]
    ) -> None:
        """Stand where `readings` end."""
        self.logits = logits
        self._reader = reader
        self._readings = readings

    def ahead(self, ids: tuple[int, ...]) -> Float[Tensor, "batch new vocab"]:
        """The logits after each of `ids`, if every conversation went on with them; none does."""
        further = [Conversation(known.key, known.ids + ids, len(known.ids), len(ids)) for known in self._readings]
        logits: dict[int, Tensor] = {}
        for group, lanes in self._reader.read(further):
            logits |= dict(zip(group, lanes.logits, strict=True))
        return torch.stack([logits[index] for index in range(len(further))])


class ConversationReader:
    """KV cache of growing conversations, with OOM back-off."""

    def __init__(self, model: PreTrainedModel, batch_size: int) -> None:
        """Read at most `batch_size` conversations side by side with `model`, a causal language model in eval mode."""
        self._model = model
        self._batch_size = batch_size
        self._num_read = Counter[int]()

    @property
    def num_forwarded(self) -> int:
        """Tokens sent through the model so far, padding left out."""
        return self._store.num_forwarded

    def refuse_too_long(self, prompt_id: str, num_tokens: int) -> None:
        """Check that a conversation fits into the model's context window.

        Raises:
            MonitorError: it does not; names the prompt.
        """
        limit = context_window(self._model)
        if limit is not None and num_tokens > limit:
            raise MonitorError(f"prompt {prompt_id!r}: the guard would read {num_tokens} tokens, of at most {limit}")

    def read(
        self, readings: Sequence[Conversation], along: tuple[int, ...] = ()
    ) -> Iterator[tuple[list[int], ReadConversations]]:
        """Read conversations in batches of about equally many unread tokens.

        Args:
            readings: the conversations.
            along: tokens that are read behind each in the same forward, if it went on with them; none does.

        Yields:
            Which of `readings` were read together, and where they stand now.
        """
        asked = [
            kv_cache.ReadRequest(reading.key, reading.ids + along, reading.num_asked + len(along))
            for reading in readings
        ]
        for request in asked:
            self._num_read[request.row] += kv_cache.num_missing(self._store, request)
        left, done = list(range(len(asked))), set[int]()
        while left:
            try:
                self._save_shared([readings[index] for index in left])
                for group, result in kv_cache.read(self._store, [asked[i] for i in left], batch_size=self._batch_size):
                    indices = [left[place] for place in group]
                    yield indices, ReadConversations(self, [readings[index] for index in indices], result.logits)
                    for index in indices:
                        self._store.truncate(readings[index].key, readings[index].num_kept)
                    done |= set(indices)
            except torch.OutOfMemoryError as error:
                self._halve(sum(index not in done for index in left), error)
            left = [index for index in left if index not in done]

    def _save_shared(self, readings: Sequence[Conversation]) -> None:
        """Read what later readings share by itself, where nothing can be rolled back to that was not saved."""
        if not isinstance(self._store, HybridStore):
            return
        grown = [each for each in readings if self._store.common(each.key, each.ids) < each.num_kept]
        shared = [kv_cache.ReadRequest(each.key, each.ids[: each.num_kept]) for each in grown]
        for indices, _ in kv_cache.read(self._store, shared, batch_size=self._batch_size):
            self._store.mark(grown[index].key for index in indices)

    def _halve(self, num_rows: int, error: torch.OutOfMemoryError) -> None:
        """Read half as many side by side from now on; what was read is forgotten.

        Raises:
            OutOfMemoryError: it was one row.
        """
        size = min(self._batch_size, num_rows)
        if size < 2:
            raise error
        self._store.clear()
        self._batch_size = size // 2
        logger.warning("memory is full; the monitor reads %d rows at once instead of %d", self._batch_size, size)

    def take_num_read(self, key: int) -> int:
        """Number of tokens read under `key` since this was last asked."""
        return self._num_read.pop(key, 0)

    def release(self, key: int) -> None:
        """Forget what was read under `key`."""
        self._store.drop(key)
        self._num_read.pop(key, None)

    @cached_property
    def _store(self) -> kv_cache.Store:
        return choose_store(self._model)


class ReadingMonitor(Generic[Model]):
    """Base of the monitors that read conversations with a model of their own."""

    def __init__(self, model: Model, batch_size: int) -> None:
        """Read at most `batch_size` conversations side by side with `model`."""
        self._model = model
        self._reader = ConversationReader(model, batch_size)

    @property
    def num_forwarded(self) -> int:
        """Tokens sent through the model so far, padding left out."""
        return self._reader.num_forwarded

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the model's weights."""
        return model_hash(self._model)

    @property
    def numerics(self) -> tuple[Numerics, ...]:
        """Numerical settings of the model."""
        return (Numerics.of(self._model),)
