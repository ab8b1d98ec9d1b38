"""Reads growing conversations side by side: what was read of one stays cached, so each token is read about once.

The only place where a monitor touches a cache of keys and values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.engines.kv import RaggedBatch, RowKV
from safethink.errors import MonitorError
from safethink.loading import context_window

SHORT_TOKENS = 32
"""Rows that lack no more than this are read together, however much they differ."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One conversation that is to be read.

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


class Lanes:
    """Conversations that have been read side by side.

    Attributes:
        logits: after the last tokens of each; where more are asked for of one than of another, the others' first ones
            mean nothing.
    """

    def __init__(self, batch: RaggedBatch, logits: Float[Tensor, "batch asked vocab"]) -> None:
        """Stand where `batch` ends."""
        self.logits = logits
        self._batch = batch

    @torch.inference_mode()
    def ahead(self, ids: Sequence[int]) -> Float[Tensor, "batch new vocab"]:
        """The logits after each of `ids`, if every conversation went on with them; none does."""
        new = torch.tensor([list(ids)] * len(self.logits), device=self.logits.device)
        logits = self._batch.extend(new)
        self._batch.crop(len(ids))
        return logits


class Reader:
    """Reads conversations with one model.

    Attributes:
        num_forwarded: tokens sent through the model so far, padding included.
    """

    def __init__(self, model: PreTrainedModel, batch_size: int) -> None:
        """Read at most `batch_size` conversations side by side with `model`, a causal language model in eval mode."""
        self.num_forwarded = 0
        self._model = model
        self._batch_size = batch_size
        self._read: dict[int, RowKV] = {}

    def refuse_too_long(self, prompt_id: str, num_tokens: int) -> None:
        """Check that a conversation fits into the model's context window.

        Raises:
            MonitorError: it does not; names the prompt.
        """
        limit = context_window(self._model)
        if limit is not None and num_tokens > limit:
            raise MonitorError(f"prompt {prompt_id!r}: the guard would read {num_tokens} tokens, of at most {limit}")

    def num_known(self, key: int, ids: Sequence[int]) -> int:
        """How many of the first `ids` have been read under `key`."""
        return self._read.get(key, RowKV()).common(ids)

    def read(self, readings: Sequence[Reading]) -> Iterator[tuple[list[int], Lanes]]:
        """Read conversations in batches of about equally many unread tokens.

        Yields:
            Which of `readings` were read together, and where they stand now.
        """
        for group in self._groups(readings):
            batch, lanes = self._read_group([readings[index] for index in group])
            yield group, lanes
            self.num_forwarded += batch.num_forwarded

    def release(self, key: int) -> None:
        """Forget what was read under `key`."""
        self._read.pop(key, None)

    @torch.inference_mode()
    def _read_group(self, readings: Sequence[Reading]) -> tuple[RaggedBatch, Lanes]:
        num_asked = [reading.num_asked for reading in readings]
        known = [self._read.get(reading.key, RowKV()) for reading in readings]
        batch, new = RaggedBatch.lay_out(self._model, [reading.ids for reading in readings], known, num_asked)
        logits = batch.extend(new, num_logits=max(num_asked))
        for index, reading in enumerate(readings):
            self._read[reading.key] = batch.row(index, reading.ids[: reading.num_kept])
        return batch, Lanes(batch, logits)

    def _groups(self, readings: Sequence[Reading]) -> Iterator[list[int]]:
        """Split the readings into batches of rows that lack about equally many tokens."""
        missing = {
            index: len(reading.ids)
            - min(self.num_known(reading.key, reading.ids), len(reading.ids) - reading.num_asked)
            for index, reading in enumerate(readings)
        }
        group: list[int] = []
        for index in sorted(range(len(missing)), key=missing.__getitem__):
            too_long = group and missing[index] > max(SHORT_TOKENS, 2 * missing[group[0]])
            if too_long or len(group) == self._batch_size:
                yield group
                group = []
            group.append(index)
        if group:
            yield group

    def _num_missing(self, reading: Reading) -> int:
        num_tokens = len(reading.ids)
        return num_tokens - min(self.num_known(reading.key, reading.ids), num_tokens - reading.num_asked)
