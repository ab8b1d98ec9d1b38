# pyright: standard
"""KV caches of many rows: extended, rolled back and asked for logits, side by side in one forward.

Axes of the tensors in this room:

    batch    rows of one forward              lanes    rows of the buffer, those that wait included
    new      tokens read by one forward       columns  positions that the buffer has room for
    heads    key-value heads                  dim      size of a head (value_dim where values have their own)
    asked    last tokens whose logits count   hidden   width of the model; vocab, size of the vocabulary
    shown    last tokens whose states count
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from safethink.errors import ModelError

SHORT_TOKENS = 8
"""Rows that lack no more than this are read together."""


@dataclass(frozen=True, slots=True)
class ReadOutput:
    """Logits, and hidden states where asked for, of one forward over some rows.

    Attributes:
        logits: of the last so many tokens of each row, as were asked for.
        states: the hidden states of the last so many tokens of each row, as were asked for, padded in front where a row
            was read less of; None where no layer was asked for.
    """

    logits: Float[Tensor, "rows asked vocab"]
    states: Float[Tensor, "rows shown hidden"] | None = None


@runtime_checkable
class Store(Protocol):
    """KV cache of many rows, by key."""

    @property
    def num_forwarded(self) -> int:
        """Tokens sent through the model so far, padding left out."""
        ...

    @property
    def num_rows(self) -> int:
        """Number of rows in the cache."""
        ...

    def length(self, row: int) -> int:
        """Number of cached tokens of `row`."""
        ...

    def common(self, row: int, ids: Sequence[int]) -> int:
        """Length of the longest common prefix of what is kept of `row` and `ids`."""
        ...

    def forward(
        self,
        rows: Sequence[int],
        new: Sequence[Sequence[int]],
        num_logits: int = 1,
        layer: int | None = None,
        num_states: int = 1,
    ) -> ReadOutput:
        """Forward new tokens, at least one, behind the cached ones of each row.

        Raises:
            CacheFullError: these rows do not fit side by side.
        """
        ...

    def mark(self, rows: Iterable[int]) -> None:
        """Make ready for rollbacks to where rows stand; no-op where a rollback to anywhere costs the same."""
        ...

    def truncate(self, row: int, num_tokens: int) -> None:
        """Roll a row back to its first `num_tokens`; further where the cache cannot be cut there."""
        ...

    def share(self, source: int, targets: Sequence[int]) -> None:
        """Copy the cache of `source` to other rows, so that a common prefix is read once (prefix caching)."""
        ...

    def pack(self, rows: Sequence[int]) -> None:
        """Make the lanes of these rows contiguous, before they are forwarded together many times."""
        ...

    def drop(self, row: int) -> None:
        """Forget a row."""
        ...

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        ...


def last_states(model: object, states: Float[Tensor, "*any"], num_states: int) -> Float[Tensor, "rows shown hidden"]:
    """The hidden states of the last tokens of each row.

    Args:
        model: whose they are.
        states: those of one layer, as the model puts them out.
        num_states: of how many tokens.

    Raises:
        ModelError: the model keeps several states of each token (Gemma 3n), of which none is the hidden state.
    """
    if states.ndim != 3:
        raise ModelError(f"{type(model).__name__} keeps several hidden states of each token, which no monitor reads")
    return states[:, -num_states:]


def common_length(read: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the longest common prefix of two sequences of token ids."""
    shorter = min(len(read), len(ids))
    # Most often all of it is common, and a comparison of lists is fast.
    if list(read[:shorter]) == list(ids[:shorter]):
        return shorter
    return next(place for place in range(shorter) if read[place] != ids[place])


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A row to be brought up to date.

    Attributes:
        row: its key.
        ids: all its tokens.
        num_asked: the last so many tokens are read anew where they are known: something is asked of them.
        num_states: of how many of the tokens that are read the hidden states are kept, the last ones; where a layer is
            asked for.
    """

    row: int
    ids: tuple[int, ...]
    num_asked: int = 1
    num_states: int = 1


def read(
    store: Store, readings: Sequence[ReadRequest], layer: int | None = None, batch_size: int | None = None
) -> Iterator[tuple[list[int], ReadOutput]]:
    """Bring rows up to date, in groups that lack about equally many tokens.

    Args:
        store: what is kept of them; holds each row's ids afterwards, and nothing else of it.
        readings: the rows, each once.
        layer: whose hidden states are wanted; None for none.
        batch_size: the most rows of a group; None for no limit.

    Yields:
        For each group, the indices into `readings` and what was read: logits and states for as many last tokens as any
        of them asks for.
    """
    missing = [num_missing(store, reading) for reading in readings]
    groups: dict[int, list[int]] = defaultdict(list)
    for index, num_new in enumerate(missing):
        # Lengths within a factor of four, which bounds the padding; the shortest are all alike.
        groups[max(num_new, SHORT_TOKENS).bit_length() // 2].append(index)
    for group in groups.values():
        size = batch_size or len(group)
        for indices in (group[start : start + size] for start in range(0, len(group), size)):
            chosen = [readings[index] for index in indices]
            for reading, index in zip(chosen, indices, strict=True):
                store.truncate(reading.row, len(reading.ids) - missing[index])
            # A store may have had to forget more than that.
            new = [reading.ids[store.length(reading.row) :] for reading in chosen]
            num_asked = max(reading.num_asked for reading in chosen)
            # What is asked once may be asked again, or of something else in its place.
            store.mark(reading.row for reading, ids in zip(chosen, new, strict=True) if len(ids) <= num_asked)
            num_states = max(reading.num_states for reading in chosen)
            yield indices, store.forward([reading.row for reading in chosen], new, num_asked, layer, num_states)


def num_missing(store: Store, reading: ReadRequest) -> int:
    """Number of tokens that must be forwarded to bring a row up to date."""
    return len(reading.ids) - min(store.common(reading.row, reading.ids), len(reading.ids) - reading.num_asked)
