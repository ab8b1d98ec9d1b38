# pyright: standard
"""Rows behind a KV cache, with the next-token logits and hidden states of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.kv_cache import ReadOutput, ReadRequest, Store, read
from safethink.kv_cache.choose import choose_store
from safethink.models.soft_rows import RowTable

_Line: TypeAlias = tuple[Tensor, int]
"""A line of a `Float[Tensor, "rows width"]` that several rows share; cutting each out costs more than it is worth."""


@dataclass(slots=True)
class _Trail:
    """The hidden states of consecutive tokens of one row, the last of which is the last that was read.

    Attributes:
        end: number of tokens of the row up to that one.
        lines: the states.
    """

    end: int
    lines: list[_Line]

    def cut(self, end: int) -> None:
        """Forget the states of all but the first `end` tokens of the row."""
        if end < self.end:
            del self.lines[max(0, len(self.lines) - (self.end - end)) :]
            self.end = end


class RowReader:
    """KV cache of many rows, and the next-token logits and hidden states of each.

    Attributes:
        table: where soft rows among the ids are looked up.
        layer: whose hidden states are kept, as transformers counts them; None for none.
        every_token: whether they are kept of every token from each row's trace on, and not of its last token alone.
    """

    def __init__(self, model: PreTrainedModel, max_cached_tokens: int | None = None) -> None:
        """Read nothing yet.

        Args:
            model: a causal language model in eval mode.
            max_cached_tokens: the most tokens whose keys and values are kept; None for no limit.
        """
        self.table = RowTable(model)
        self.layer: int | None = None
        self.every_token = False
        self._model = model
        self._max_cached_tokens = max_cached_tokens
        self._next: dict[int, _Line] = {}
        self._trails: dict[int, _Trail] = {}

    @cached_property
    def store(self) -> Store:
        """The KV cache, of the kind that suits the model."""
        return choose_store(self._model, self.table, self._max_cached_tokens)

    def is_at(self, row: int, ids: Sequence[int], num_states: int = 1) -> bool:
        """Whether `row` has been read to the end of `ids` and no further, with so many states if any are kept."""
        known = row in self._next and (self.layer is None or self._num_states(row) >= num_states)
        return known and self.store.length(row) == len(ids) == self.store.common(row, ids)

    def watch(self, layer: int, every_token: bool = False) -> None:
        """Keep the hidden states at `layer` of every row's last token from now on, or of all that are read."""
        if self.layer != layer:
            self.layer, self.every_token = layer, False
            self._trails.clear()
        self.every_token = self.every_token or every_token

    def holds(self, row: int, ids: Sequence[int]) -> bool:
        """Whether `row` has been read to the end of `ids`, if it was ever opened with them."""
        return self.store.length(row) == len(ids)

    def open(self, rows: Mapping[int, Sequence[int]], num_states: Mapping[int, int] | None = None) -> None:
        """Prefill rows to the end of their ids; rows that are equal in every token are read once (prefix caching).

        Args:
            rows: the ids of each.
            num_states: of how many last tokens of each row the hidden states are wanted, where every token's are kept;
                what was read without is read again.

        Raises:
            CacheFullError: they do not fit side by side.
        """
        wanted = dict.fromkeys(rows, 1)
        if num_states is not None and self.every_token:
            wanted |= {row: max(1, num_states[row]) for row in rows}
        behind = {row: ids for row, ids in rows.items() if not self.is_at(row, ids, wanted[row])}
        twins: dict[tuple[tuple[int, ...], int], list[int]] = defaultdict(list)
        for row, ids in behind.items():
            if not self.store.common(row, ids):
                twins[tuple(ids), wanted[row]].append(row)
        copies = {row: alike[0] for alike in twins.values() for row in alike[1:]}
        first = {row: ids for row, ids in behind.items() if row not in copies}
        self.look_back([ReadRequest(row, tuple(ids), 1, wanted[row]) for row, ids in first.items()])
        for row, source in copies.items():
            self.store.share(source, [row])
            self._next[row] = self._next[source]
            if source in self._trails:
                trail = self._trails[source]
                self._trails[row] = _Trail(trail.end, list(trail.lines))

    def step(self, rows: Sequence[int], tokens: Sequence[int], ending: Collection[int] = ()) -> None:
        """Read one more token of each of several rows.

        Args:
            rows: which rows.
            tokens: the token of each.
            ending: rows whose extension ends with it; they may be rolled back to there.

        Raises:
            CacheFullError: they do not fit side by side.
        """
        self.store.pack(rows)
        # Before the last token, which must be read anew for what may follow it.
        self.store.mark(ending)
        result = self.store.forward(rows, [[token_id] for token_id in tokens], layer=self.layer)
        self._note(rows, result.logits[:, -1], result.states, [1] * len(rows))

    def logits(self, rows: Sequence[int]) -> Float[Tensor, "rows vocab"]:
        """Next-token logits of rows that have been read to their end."""
        return _gather([self._next[row] for row in rows])

    def states(self, rows: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """The hidden state at `layer` of the last token of each row, which has been read to its end."""
        return _gather([self._trails[row].lines[-1] for row in rows])

    def token_states(self, row: int, num_tokens: int) -> Float[Tensor, "tokens hidden"]:
        """The hidden states at `layer` of the last tokens of a row, which was opened with so many."""
        return torch.stack([tensor[place] for tensor, place in self._trails[row].lines[-num_tokens:]])

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
        for indices, result in self._read(readings, self.layer if layer is None else layer):
            for place, index in enumerate(indices):
                logits[index] = result.logits[place, -readings[index].num_asked :]
                if layer is not None and result.states is not None:
                    states[index] = result.states[place, -1]
        return [logits[index] for index in range(len(readings))], [states[index] for index in sorted(states)]

    def drop(self, row: int) -> None:
        """Forget a row."""
        self.store.drop(row)
        self._forget(row)

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self.store.clear()
        self._next.clear()
        self._trails.clear()

    def _read(self, readings: Sequence[ReadRequest], layer: int | None) -> Iterator[tuple[list[int], ReadOutput]]:
        """Bring rows up to date and note what is known of them then; see `kv_cache.read`."""
        watched = self.layer is not None and layer == self.layer
        if watched and self.every_token:
            readings = [self._with_states(reading) for reading in readings]
        for indices, result in read(self.store, readings, layer):
            chosen = [readings[index] for index in indices]
            states = result.states if watched else None
            num_states = [reading.num_states for reading in chosen]
            self._note([reading.row for reading in chosen], result.logits[:, -1], states, num_states)
            yield indices, result

    def _with_states(self, reading: ReadRequest) -> ReadRequest:
        """The same, asking for the states of all tokens of which there are none yet.

        What was read without is forgotten, so that it is read again.
        """
        row, ids = reading.row, reading.ids
        trail = self._trails.get(row)
        if trail is not None and trail.end != self.store.length(row):
            # The store had to forget the row, and nobody knows which tokens these are.
            trail = None
        unread = len(ids) - self.store.common(row, ids)
        if trail is not None:
            trail.cut(len(ids) - unread)
        if trail is not None and trail.lines and len(trail.lines) + unread >= reading.num_states:
            return replace(reading, num_states=max(1, unread))
        self._trails.pop(row, None)
        if unread < reading.num_states:
            self.store.truncate(row, len(ids) - reading.num_states)
        return reading

    def _note(
        self,
        rows: Sequence[int],
        logits: Float[Tensor, "rows vocab"],
        states: Float[Tensor, "rows shown hidden"] | None,
        num_states: Sequence[int],
    ) -> None:
        """Note what was read: of each row the next-token logits, and the states of its last so many tokens."""
        self._next |= {row: (logits, place) for place, row in enumerate(rows)}
        if states is None:
            for row in rows:
                self._trails.pop(row, None)
            return
        columns = states.unbind(1)
        for place, (row, num) in enumerate(zip(rows, num_states, strict=True)):
            end, lines = self.store.length(row), [(column, place) for column in columns[-num:]]
            trail = self._trails.get(row) if self.every_token else None
            if trail is not None:
                trail.cut(end - num)
            if trail is None or trail.end != end - num:
                self._trails[row] = _Trail(end, lines)
            else:
                trail.lines += lines
                trail.end = end

    def _num_states(self, row: int) -> int:
        return len(self._trails[row].lines) if row in self._trails else 0

    def _forget(self, row: int) -> None:
        self._next.pop(row, None)
        self._trails.pop(row, None)


def _gather(lines: Sequence[_Line]) -> Float[Tensor, "lines width"]:
    """The lines as one tensor."""
    whole = lines[0][0]
    places = [place for _, place in lines]
    if any(tensor is not whole for tensor, _ in lines):
        return torch.stack([tensor[place] for tensor, place in lines])
    return whole if places == list(range(len(whole))) else whole[places]
