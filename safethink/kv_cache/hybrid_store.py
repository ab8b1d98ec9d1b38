# pyright: standard
"""Lanes for models that keep recurrent or convolution states beside keys and values.

Keys and values roll back to anywhere, states to where they were saved: before the last tokens of whatever is read at
once, and wherever the engine marks the end of a step. Axes: see `safethink.kv_cache`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from typing import TypeAlias

import torch
from transformers import PreTrainedModel

from safethink.kv_cache import ReadOutput
from safethink.kv_cache.lane_store import LaneStore
from safethink.kv_cache.states import LaneStates
from safethink.models.soft_rows import RowTable

MAX_SNAPSHOTS = 6
"""The snapshots of a row's states that are kept, beside its first, which is the prompt's; the wider apart the older."""
NUM_LATEST = 4
"""The latest of them, which all stay: a rollback of fewer steps than that finds its place."""

Snapshots: TypeAlias = dict[int, list[LaneStates]]
"""Saved states of a row, by the number of tokens that had been read."""


class HybridStore:
    """Batched KV cache whose rows also have states, saved at the places that they may be rolled back to.

    Rows that have been read before are forwarded side by side by equally many tokens, because padding would change
    their states; those that have not are padded in front, which changes nothing.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        table: RowTable | None = None,
        max_tokens: int | None = None,
        by_token: bool = False,
    ) -> None:
        """Keep nothing yet.

        Args:
            model: a causal language model, some of whose layers attend to tokens.
            table: where soft rows among the ids are looked up; None where there are none.
            max_tokens: the most tokens that keys and values may have room for; states and their snapshots are not
                counted. None for no limit.
            by_token: whether rows that have been read before are forwarded by one token at a time, because the model
                starts from an empty state where it reads several.
        """
        self._by_token = by_token
        self._lanes = LaneStore(model, table, max_tokens)
        self._snapshots: dict[int, Snapshots] = {}

    @property
    def num_forwarded(self) -> int:
        """Tokens sent through the model so far, padding left out."""
        return self._lanes.num_forwarded

    @property
    def num_rows(self) -> int:
        """Number of rows in the cache."""
        return self._lanes.num_rows

    def length(self, row: int) -> int:
        """Number of cached tokens of `row`."""
        return self._lanes.length(row)

    def common(self, row: int, ids: Sequence[int]) -> int:
        """Length of the longest common prefix of what is kept of `row` and `ids`."""
        return self._lanes.common(row, ids)

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

        Where more are read than logits are asked for, states are saved before the tokens that they are asked of.

        Args:
            rows: which rows.
            new: the tokens of each.
            num_logits: of how many last tokens the logits are returned.
            layer: whose hidden states to return, as transformers counts them; None for none.
            num_states: of how many last tokens the hidden states are returned.

        Raises:
            CacheFullError: these rows do not fit side by side.
        """
        tokens = dict(zip(rows, new, strict=True))
        # All at once, so that none has to make room for another.
        ends = {row: self.length(row) + len(ids) for row, ids in tokens.items()}
        self._lanes.reserve(rows, max(ends.values()))
        # Rows that had to make room have nothing to go back to.
        self._snapshots = {row: saved for row, saved in self._snapshots.items() if self.length(row)}
        parts: list[_Part] = []
        ahead = {row: ids[:-num_logits] for row, ids in tokens.items() if len(ids) > num_logits}
        shown = 0 if layer is None else max(num_states - num_logits, 0)
        for chunk in self._chunks(ahead):
            group = list(chunk)
            result = self._forward(group, list(chunk.values()), 1, layer if shown else None, max(shown, 1))
            parts.append(_Part(group, result, [ends[row] - self.length(row) for row in group]))
        self.mark(ahead)
        asked = {row: ids[-num_logits:] for row, ids in tokens.items()}
        for group in self._groups(asked):
            result = self._forward(group, [asked[row] for row in group], num_logits, layer, num_states)
            parts.append(_Part(group, result, [0] * len(group)))
        whole = parts[-1]
        if whole.group == list(rows) and not (ahead and shown):
            return whole.result
        return _joined(rows, parts, num_logits, num_states)

    @torch.inference_mode()
    def mark(self, rows: Iterable[int]) -> None:
        """Save the states of rows where they stand, so that they can be rolled back to there."""
        for row in filter(self.length, rows):
            saved = self._snapshots.setdefault(row, {})
            if self.length(row) not in saved:
                saved[self.length(row)] = self._lanes.save_states(row)
            if len(saved) > MAX_SNAPSHOTS + 1:
                del saved[_least_missed(sorted(saved))]

    @torch.inference_mode()
    def truncate(self, row: int, num_tokens: int) -> None:
        """Roll a row back to its first `num_tokens`, or to where its states were last saved before that."""
        if self.length(row) <= num_tokens:
            return
        saved = {length: states for length, states in self._snapshots.get(row, {}).items() if length <= num_tokens}
        self._snapshots[row] = saved
        length = max(saved, default=0)
        self._lanes.truncate(row, length)
        if length:
            self._lanes.load_states(row, saved[length])

    def share(self, source: int, targets: Sequence[int]) -> None:
        """Copy what was read of `source` to other rows."""
        self._lanes.share(source, targets)
        for target in targets:
            # Snapshots are never written to.
            self._snapshots[target] = dict(self._snapshots.get(source, {}))

    def pack(self, rows: Sequence[int]) -> None:
        """Move rows to the first lanes where too many others lie between them."""
        self._lanes.pack(rows)

    def drop(self, row: int) -> None:
        """Forget a row; with the last one the memory is given back."""
        self._lanes.drop(row)
        self._snapshots.pop(row, None)

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._lanes.clear()
        self._snapshots.clear()

    def _forward(
        self, group: list[int], new: Sequence[Sequence[int]], num_logits: int, layer: int | None, num_states: int
    ) -> ReadOutput:
        """Forward rows that may be forwarded side by side."""
        if not self._by_token or not self.length(group[0]):
            return self._lanes.forward(group, new, num_logits, layer, num_states)
        columns = zip(*new, strict=True)
        reads = [self._lanes.forward(group, [[token_id] for token_id in column], 1, layer) for column in columns]
        states = [each.states for each in reads[-num_states:] if each.states is not None]
        logits = torch.cat([each.logits for each in reads[-num_logits:]], dim=1)
        return ReadOutput(logits, torch.cat(states, dim=1) if states else None)

    def _chunks(self, new: dict[int, Sequence[int]]) -> Iterator[dict[int, Sequence[int]]]:
        """The new tokens in parts that may be read side by side: of rows never read before, and of others."""
        fresh = {row: ids for row, ids in new.items() if not self.length(row)}
        left = {row: ids for row, ids in new.items() if row not in fresh}
        if fresh:
            yield fresh
        for width in _widths({len(ids) for ids in left.values()}):
            yield {row: ids[:width] for row, ids in left.items() if len(ids) >= width}
            left = {row: ids[width:] if len(ids) >= width else ids for row, ids in left.items()}

    def _groups(self, new: dict[int, Sequence[int]]) -> list[list[int]]:
        """Rows that may be forwarded side by side: those never read before, and others by their number of tokens."""
        groups: dict[int, list[int]] = defaultdict(list)
        for row, ids in new.items():
            groups[len(ids) if self.length(row) else 0].append(row)
        return list(groups.values())


def _widths(lengths: set[int]) -> list[int]:
    """Numbers of tokens to read one after the other, each by the rows that lack so many or more, so that none is left.

    From length to length where there are few; else what all lack, and then powers of two, the largest first.
    """
    if not lengths:
        return []
    ordered = sorted(lengths)
    bits = reduce(or_, (length - ordered[0] for length in ordered))
    powers = [1 << bit for bit in reversed(range(bits.bit_length())) if bits >> bit & 1]
    return min([end - start for start, end in pairwise([0, *ordered])], [ordered[0], *powers], key=len)


def _least_missed(places: Sequence[int]) -> int:
    """The inner one of these lengths, in order, whose neighbours lie closest for how far from the end they are.

    Places thus come to lie the wider apart the further back they are, and a deep rollback reads again in proportion to
    what it takes back. The latest stay, so that a rollback of a step or a few reads nothing again.
    """
    end, older = places[-1], places[: 1 - NUM_LATEST]
    neighbours = zip(older, older[1:], older[2:], strict=False)
    return min(neighbours, key=lambda each: (each[2] - each[0]) / (end - each[0]))[1]


@dataclass(frozen=True, slots=True)
class _Part:
    """Output of one forward over some rows.

    Attributes:
        group: the rows.
        result: what was read.
        num_behind: how many tokens were read of each row afterwards; none of what is asked about.
    """

    group: list[int]
    result: ReadOutput
    num_behind: list[int]


def _joined(rows: Sequence[int], parts: list[_Part], num_logits: int, num_states: int) -> ReadOutput:
    """Outputs of several forwards as one, in the order of `rows`, with zeros in front of what was read less of."""
    places = {row: place for place, row in enumerate(rows)}
    last = parts[-1].result
    logits = last.logits.new_zeros(len(rows), num_logits, last.logits.shape[-1])
    states = None if last.states is None else last.states.new_zeros(len(rows), num_states, last.states.shape[-1])
    for part in parts:
        at = [places[row] for row in part.group]
        if not any(part.num_behind):
            logits[at, num_logits - part.result.logits.shape[1] :] = part.result.logits
        if states is not None and part.result.states is not None:
            for place, num_behind, found in zip(at, part.num_behind, part.result.states, strict=True):
                end = max(num_states - num_behind, 0)
                num = min(end, len(found))
                states[place, end - num : end] = found[len(found) - num :]
    return ReadOutput(logits, states)
