# pyright: standard
"""What a run forwards through its KV cache, beside what one would that rolls back to anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safethink.kv_cache import ReadOutput, Store


class CountedStore:
    """A store that is passed on to another, and counts.

    Attributes:
        num_ideal: tokens that would have been forwarded if every rollback went exactly where it was asked to.
        num_calls: how often rows were forwarded.
    """

    def __init__(self, store: Store) -> None:
        """Pass everything on to `store`."""
        self._store = store
        self._lengths: dict[int, int] = {}
        self.num_ideal = 0
        self.num_calls = 0

    def __getattr__(self, name: str) -> Any:
        """Whatever is not counted."""
        return getattr(self._store, name)

    def forward(self, rows: Sequence[int], new: Sequence[Sequence[int]], *options: Any, **named: Any) -> ReadOutput:
        """Count and pass on."""
        self.num_calls += 1
        ends = {row: self._store.length(row) + len(tokens) for row, tokens in zip(rows, new, strict=True)}
        self.num_ideal += sum(end - self._lengths.get(row, 0) for row, end in ends.items())
        self._lengths |= ends
        return self._store.forward(rows, new, *options, **named)

    def truncate(self, row: int, num_tokens: int) -> None:
        """Note where the row is rolled back to, and pass on."""
        self._lengths[row] = min(self._lengths.get(row, 0), num_tokens)
        self._store.truncate(row, num_tokens)

    def share(self, source: int, targets: Sequence[int]) -> None:
        """Note the lengths and pass on."""
        self._lengths |= dict.fromkeys(targets, self._lengths[source])
        self._store.share(source, targets)

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._lengths.pop(row, None)
        self._store.drop(row)
