# pyright: standard
"""A key-value cache whose rows differ in length: every row has a lane of its own, and a column for each position.

Nothing is padded in between and nothing moves when a row grows, waits or is rolled back: a lane's length says how much
of it counts, and what lies beyond is overwritten or never looked at. Since the column of a token is its position,
sliding windows stay exact at any depth of a rollback. Axes: see `safethink.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

COLUMN_BLOCK = 64
"""Lanes grow by multiples of so many columns."""


@dataclass(frozen=True, slots=True)
class LanePlacement:
    """Lanes and columns that one forward writes to and attends to.

    Attributes:
        lanes: the lane of each row of the batch.
        columns: where each new token is written; the last column of the buffer takes what counts for nothing.
        num_columns: how many columns attention looks at.
        whole: whether `lanes` are the first ones in order, so that no copy is needed to look at them.
        waiting: those among `lanes` that read nothing, and are looked at only because others are.
        resumes: whether the rows have been read before; where states are kept, either all have or none.
    """

    lanes: Int[Tensor, " batch"]
    columns: Int[Tensor, "batch new"]
    num_columns: int
    whole: bool
    waiting: Int[Tensor, " waiting"]
    resumes: bool


class LaneLayer(CacheLayerMixin):
    """Keys and values of one layer, in a buffer of lanes and columns.

    Attributes:
        keys: `Float[Tensor, "lanes heads columns dim"]`, None before the first forward.
        values: likewise.
    """

    is_croppable = True
    is_sliding = False

    def __init__(self) -> None:
        """Hold nothing yet; the model's first forward says of which shape."""
        super().__init__()
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.size = (0, 0)
        self.placement: LanePlacement | None = None

    def lazy_initialization(
        self, key_states: Float[Tensor, "batch heads new dim"], value_states: Float[Tensor, "batch heads new value_dim"]
    ) -> None:
        """Make the buffers, of as many lanes and columns as `size` says."""
        self.keys, self.values = (self._empty(states, self.size) for states in (key_states, value_states))
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch heads new dim"],
        value_states: Float[Tensor, "batch heads new value_dim"],
        *args: object,
        **kwargs: object,
    ) -> tuple[Float[Tensor, "batch heads columns dim"], Float[Tensor, "batch heads columns value_dim"]]:
        """Write the new keys and values to their places and return all that attention may look at."""
        if self.keys is None or self.values is None:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        assert self.placement is not None
        return self._put(self.keys, key_states, self.placement), self._put(self.values, value_states, self.placement)

    def place(self, placement: LanePlacement) -> None:
        """Set the lanes and columns of the next forward."""
        self.placement = placement

    def resize(self, kept: Sequence[int], size: tuple[int, int]) -> None:
        """Make buffers of another size; lane i is what `kept[i]` was."""
        self.size = size
        if self.keys is not None and self.values is not None:
            self.keys = _resized(self.keys, kept, size)
            self.values = _resized(self.values, kept, size)

    def copy(self, source: int, target: int, num_columns: int) -> None:
        """Copy the first columns of one lane to another."""
        for buffer in (self.keys, self.values):
            if buffer is not None:
                buffer[target, :, :num_columns] = buffer[source, :, :num_columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what attention looks at."""
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        """Number of columns that attention looks at."""
        return 0 if self.placement is None else self.placement.num_columns

    def get_max_length(self) -> int:
        """No maximum: buffers grow."""
        return -1

    @staticmethod
    def _empty(states: Tensor, size: tuple[int, int]) -> Tensor:
        lanes, columns = size
        # Zeros: what is masked out is still multiplied, and an arbitrary bit pattern may be no number.
        return states.new_zeros(lanes, states.shape[1], columns, states.shape[3])

    @staticmethod
    def _put(buffer: Tensor, states: Tensor, placement: LanePlacement) -> Tensor:
        # The layers of one model may lie on several devices.
        lanes, columns = placement.lanes.to(buffer.device), placement.columns.to(buffer.device)
        buffer[lanes[:, None], :, columns] = states.transpose(1, 2)
        seen = buffer[:, :, : placement.num_columns]
        return seen[: len(lanes)] if placement.whole else seen[lanes]


def _resized(buffer: Tensor, kept: Sequence[int], size: tuple[int, int]) -> Tensor:
    lanes, columns = size
    larger = buffer.new_zeros(lanes, buffer.shape[1], columns, buffer.shape[3])
    # The last column holds what counts for nothing.
    num_columns = min(buffer.shape[2], columns) - 1
    larger[: len(kept), :, :num_columns] = buffer[list(kept), :, :num_columns]
    return larger
