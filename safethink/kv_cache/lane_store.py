# pyright: standard
"""Batched KV cache with one lane per row: a rollback shortens a length, a forward covers all lanes.

Rows of one forward are padded on the left to the longest `new`; position -1 marks padding, which is written to the
spare last column and never attended to. Axes: see `safethink.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count

import numpy as np
import torch
from jaxtyping import Int
from transformers import PreTrainedModel

from safethink.errors import CacheFullError
from safethink.kv_cache import ReadOutput, common_length, last_states
from safethink.kv_cache.lane_cache import LaneCache, masks
from safethink.kv_cache.lanes import COLUMN_BLOCK, LanePlacement
from safethink.kv_cache.states import LaneStates
from safethink.models.soft_rows import RowTable

MAX_IDLE_SHARE = 0.5
"""Lanes that wait are forwarded along with the others until they make up this share; to leave them out costs a copy."""
GROWTH = 1.25
"""Factor by which lanes become longer than is needed, so that they rarely grow."""


class LaneStore:
    """Batched KV cache with one lane per row, and an LRU limit on its size; see `LaneCache`."""

    def __init__(self, model: PreTrainedModel, table: RowTable | None = None, max_tokens: int | None = None) -> None:
        """Keep nothing yet.

        Args:
            model: a causal language model that attends to tokens alone.
            table: where soft rows among the ids are looked up; None where there are none.
            max_tokens: the most tokens that the buffer may have room for, waiting rows and spare room included; those
                that have waited longest are forgotten. None for no limit.
        """
        self.num_forwarded = 0
        self._model = model
        self._table = table or RowTable(model)
        self._max_tokens = max_tokens
        self._clock = count()
        self.clear()

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._cache = LaneCache(self._model)
        self._size = (0, 0)
        self._lanes: dict[int, int] = {}
        self._ids: dict[int, list[int]] = {}
        self._used: dict[int, int] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows in the cache."""
        return len(self._lanes)

    def length(self, row: int) -> int:
        """Number of cached tokens of `row`."""
        return len(self._ids.get(row, ()))

    def common(self, row: int, ids: Sequence[int]) -> int:
        """Length of the longest common prefix of what is kept of `row` and `ids`."""
        return common_length(self._ids.get(row, ()), ids)

    def mark(self, rows: Iterable[int]) -> None:
        """No-op: any place can be rolled back to."""

    def truncate(self, row: int, num_tokens: int) -> None:
        """Forget all but the first `num_tokens` of a row."""
        if row in self._ids:
            del self._ids[row][num_tokens:]

    def drop(self, row: int) -> None:
        """Forget a row; with the last one the memory is given back."""
        if row in self._lanes:
            del self._lanes[row], self._ids[row], self._used[row]
        if not self._lanes:
            self.clear()

    def save_states(self, row: int) -> list[LaneStates]:
        """Copies of the recurrent states of a row; empty where the model keeps none."""
        return self._cache.save_states(self._lanes[row])

    def load_states(self, row: int, states: Sequence[LaneStates]) -> None:
        """Put saved states back; `truncate` says of how many tokens they are."""
        self._cache.load_states(self._lanes[row], states)

    @torch.inference_mode()
    def share(self, source: int, targets: Sequence[int]) -> None:
        """Copy what was read of `source` to other rows."""
        self.reserve([source, *targets], self.length(source))
        for target in targets:
            self._cache.copy(self._lanes[source], self._lanes[target], self.length(source))
            self._ids[target] = list(self._ids[source])

    @torch.inference_mode()
    def pack(self, rows: Sequence[int]) -> None:
        """Move rows to the first lanes where too many others lie between them."""
        lanes = [self._lanes[row] for row in rows]
        if len(rows) >= (1 - MAX_IDLE_SHARE) * (max(lanes) + 1):
            return
        first = set(rows)
        kept = sorted(self._lanes, key=lambda row: row not in first)
        self._cache.resize([self._lanes[row] for row in kept], self._size)
        self._lanes = {row: lane for lane, row in enumerate(kept)}

    @torch.inference_mode()
    def forward(
        self,
        rows: Sequence[int],
        new: Sequence[Sequence[int]],
        num_logits: int = 1,
        layer: int | None = None,
        num_states: int = 1,
    ) -> ReadOutput:
        """Forward new tokens, at least one, behind the cached ones of each row.

        Rows that have fewer than others are filled up in front, with tokens that nothing looks at.

        Args:
            rows: which rows.
            new: the tokens of each.
            num_logits: of how many last tokens the logits are returned.
            layer: whose hidden states to return, as transformers counts them; None for none.
            num_states: of how many last tokens the hidden states are returned.

        Raises:
            CacheFullError: these rows do not fit side by side.
        """
        starts = [self.length(row) for row in rows]
        ends = [start + len(tokens) for start, tokens in zip(starts, new, strict=True)]
        self.reserve(rows, max(ends))
        lanes = [self._lanes[row] for row in rows]
        span = max(lanes) + 1
        whole = len(lanes) >= (1 - MAX_IDLE_SHARE) * span
        # Over all lanes in order there is nothing to copy; those that wait read a token that counts for nothing.
        places, height = (lanes, span) if whole else (list(range(len(lanes))), len(lanes))
        width = max(map(len, new))
        ids, positions = np.zeros((height, width), dtype=np.int64), np.full((height, width), -1)
        for place, tokens, start, end in zip(places, new, starts, ends, strict=True):
            ids[place, start - end :] = tokens
            positions[place, start - end :] = range(start, end)
        read = self._forward(
            ids, positions, list(range(span)) if whole else lanes, whole, num_logits, layer, num_states
        )
        for row, tokens in zip(rows, new, strict=True):
            self._ids[row] += tokens
        self.num_forwarded += sum(ends) - sum(starts)
        if places == list(range(height)):
            return read
        return ReadOutput(read.logits[places], None if read.states is None else read.states[places])

    def _forward(
        self,
        ids: Int[np.ndarray, "batch new"],
        positions: Int[np.ndarray, "batch new"],
        lanes: list[int],
        whole: bool,
        num_logits: int,
        layer: int | None,
        num_states: int,
    ) -> ReadOutput:
        device = self._model.device
        places = torch.from_numpy(positions).to(device)
        num_columns = int(positions[:, -1].max()) + 1
        columns = places.masked_fill(places < 0, self._size[1] - 1)
        placement = LanePlacement(
            lanes=torch.tensor(lanes, device=device),
            columns=columns,
            num_columns=num_columns,
            whole=whole,
            waiting=torch.from_numpy(np.flatnonzero(positions[:, -1] < 0)).to(device),
            resumes=not (positions == 0).any(),
        )
        self._cache.place(placement)
        output = self._model(
            **self._table.inputs(torch.from_numpy(ids).to(device)),
            attention_mask=masks(self._model, places, num_columns),
            position_ids=places.clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=num_logits,
            output_hidden_states=layer is not None,
        )
        self._cache.settle()
        states = None
        if layer is not None:
            states = last_states(self._model, output.hidden_states[layer], num_states).clone()
        return ReadOutput(output.logits, states)

    def reserve(self, rows: Sequence[int], num_tokens: int) -> None:
        """Give every row a lane, and all lanes room for `num_tokens` and one column for what counts for nothing."""
        now = next(self._clock)
        self._used |= dict.fromkeys(rows, now)
        new = [row for row in rows if row not in self._lanes]
        lanes, columns = self._size
        wanted = (max(lanes, len(self._lanes) + len(new)), max(columns, _columns(num_tokens, columns)))
        if wanted != self._size:
            self._resize(rows, wanted, _columns(num_tokens, 0))
        taken = set(self._lanes.values()) if new else set[int]()
        free = (lane for lane in count() if lane not in taken)
        # Only now, as the lanes of rows that had to go are free again.
        for row, lane in zip(new, free, strict=False):
            self._lanes[row] = lane
            self._ids[row] = []

    def _resize(self, rows: Sequence[int], wanted: tuple[int, int], least_columns: int) -> None:
        """Make the buffer larger; where the limit forbids it, forget the rows that have waited longest."""
        lanes, columns = wanted
        kept = list(self._lanes)
        if self._max_tokens is not None and lanes * columns > self._max_tokens:
            columns = max(least_columns, max((_columns(self.length(row), 0) for row in rows), default=0))
            lanes = self._max_tokens // columns
            if lanes < len(rows):
                raise CacheFullError(f"{len(rows)} rows of {columns} tokens exceed {self._max_tokens} cached tokens")
            fitting = [row for row in kept if row in rows or self.length(row) < columns]
            latest = sorted(fitting, key=lambda row: self._used[row], reverse=True)
            num_new = sum(row not in self._lanes for row in rows)
            kept = latest[: lanes - num_new]
            lanes = len(kept) + num_new
        self._cache.resize([self._lanes[row] for row in kept], (lanes, columns))
        self._size = (lanes, columns)
        self._lanes = {row: lane for lane, row in enumerate(kept)}
        self._ids = {row: self._ids[row] for row in kept}
        self._used = {row: self._used[row] for row in {*kept, *rows}}


def _columns(num_tokens: int, current: int) -> int:
    """Columns for `num_tokens`, in whole blocks; what must grow anyway grows by more than it needs."""
    if num_tokens < current:
        return current
    wanted = num_tokens + 1 if not current else max(num_tokens + 1, int(GROWTH * current))
    return -(-wanted // COLUMN_BLOCK) * COLUMN_BLOCK
