# pyright: standard
"""Rows behind a KV cache, with the next-token logits of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.kv_cache import ReadRequest, Store, read
from safethink.kv_cache.choose import choose_store
from safethink.models.soft_rows import RowTable

_Line: TypeAlias = tuple[Tensor, int]
"""A line of a `Float[Tensor, "rows width"]` that several rows share; cutting each out costs more than it is worth."""


class RowReader:
    """KV cache of many rows, and the next-token logits and last hidden state of each.

    Attributes:
        table: where soft rows among the ids are looked up.
        layer: whose hidden state is kept of every row's last token, as transformers counts them; None for none.
    """

    def __init__(self, model: PreTrainedModel, max_cached_tokens: int | None = None) -> None:
        """Read nothing yet.

        Args:
            model: a causal language model in eval mode.
            max_cached_tokens: the most tokens whose keys and values are kept; None for no limit.
        """
        self.table = RowTable(model)
        self.layer: int | None = None
        self._model = model
        self._max_cached_tokens = max_cached_tokens
        self._next: dict[int, _Line] = {}
        self._states: dict[int, _Line] = {}

    @cached_property
    def store(self) -> Store:
        """The KV cache, of the kind that suits the model."""
        return choose_store(self._model, self.table, self._max_cached_tokens)

    def is_at(self, row: int, ids: Sequence[int]) -> bool:
        """Whether `row` has been read to the end of `ids`, and no further."""
        known = row in self._next and (self.layer is None or row in self._states)
        return known and self.store.length(row) == len(ids) == self.store.common(row, ids)

    def watch(self, layer: int) -> None:
        """Keep the hidden states at `layer` of every row's last token from now on."""
        if self.layer != layer:
            self.layer = layer
            self._states.clear()

    def holds(self, row: int, ids: Sequence[int]) -> bool:
        """Whether `row` has been read to the end of `ids`, if it was ever opened with them."""
        return self.store.length(row) == len(ids)

    def open(self, rows: dict[int, Sequence[int]]) -> None:
        """Prefill rows to the end of their ids; rows that are equal in every token are read once (prefix caching).

        Raises:
            CacheFullError: they do not fit side by side.
        """
        behind = {row: ids for row, ids in rows.items() if not self.is_at(row, ids)}
        twins: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, ids in behind.items():
            if not self.store.common(row, ids):
                twins[tuple(ids)].append(row)
        copies = {row: alike[0] for alike in twins.values() for row in alike[1:]}
        self._read([ReadRequest(row, tuple(ids)) for row, ids in behind.items() if row not in copies])
        for row, source in copies.items():
            self.store.share(source, [row])
            self._next[row] = self._next[source]
            if source in self._states:
                self._states[row] = self._states[source]

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Read one more token of each of several rows.

        Raises:
            CacheFullError: they do not fit side by side.
        """
        self.store.pack(rows)
        result = self.store.forward(rows, [[token_id] for token_id in tokens], layer=self.layer)
        self._note(rows, result.logits[:, -1], result.states)

    def logits(self, rows: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Next-token logits of rows that have been read to their end."""
        return _gather([self._next[row] for row in rows])

    def states(self, rows: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """The hidden state at `layer` of the last token of each row, which has been read to its end."""
        return _gather([self._states[row] for row in rows])

    def look_back(
        self, readings: Sequence[ReadRequest], layer: int | None = None
    ) -> tuple[list[Float[Tensor, "asked vocab"]], list[Float[Tensor, " hidden"]]]:
        """Read rows so that their last tokens are read now.

        Args:
            readings: the rows, and how many last tokens are asked for.
            layer: whose hidden states are asked for; None for none.

        Returns:
            Of each row the logits at the tokens asked for, and the hidden state of its last one; no states without
            a layer.
        """
        logits, states = dict[int, Tensor](), dict[int, Tensor]()
        for indices, result in read(self.store, readings, layer):
            for place, index in enumerate(indices):
                row = readings[index].row
                self._forget(row)
                self._next[row] = (result.logits[:, -1], place)
                logits[index] = result.logits[place, -readings[index].num_asked :]
                if result.states is not None:
                    states[index] = result.states[place]
        return [logits[index] for index in range(len(readings))], [states[index] for index in sorted(states)]

    def drop(self, row: int) -> None:
        """Forget a row."""
        self.store.drop(row)
        self._forget(row)

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self.store.clear()
        self._next.clear()
        self._states.clear()

    def _read(self, readings: Sequence[ReadRequest]) -> None:
        for indices, result in read(self.store, readings, self.layer):
            self._note([readings[index].row for index in indices], result.logits[:, -1], result.states)

    def _note(
        self, rows: Sequence[int], logits: Float[Tensor, "rows vocab"], states: Float[Tensor, "rows hidden"] | None
    ) -> None:
        self._next |= {row: (logits, place) for place, row in enumerate(rows)}
        if states is not None:
            self._states |= {row: (states, place) for place, row in enumerate(rows)}

    def _forget(self, row: int) -> None:
        self._next.pop(row, None)
        self._states.pop(row, None)


def _gather(lines: Sequence[_Line]) -> Float[Tensor, "lines width"]:
    """The lines as one tensor."""
    whole = lines[0][0]
    places = [place for _, place in lines]
    if any(tensor is not whole for tensor, _ in lines):
        return torch.stack([tensor[place] for tensor, place in lines])
    return whole if places == list(range(len(whole))) else whole[places]
