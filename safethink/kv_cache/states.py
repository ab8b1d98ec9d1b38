# pyright: standard
"""Recurrent and convolution states of many rows side by side, one lane for each.

Unlike keys and values they are overwritten as a row grows, so that a row returns only to where its states were saved.
Axes: see `safethink.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from transformers.cache_utils import LinearAttentionLayer

from safethink.kv_cache.lanes import LaneLayer, LanePlacement

LaneStates: TypeAlias = tuple[Tensor, ...]
"""States of one lane in one layer."""


class StateLayer(LinearAttentionLayer):
    """Recurrent and convolution states of one layer, in buffers of lanes.

    A forward reads and overwrites the states that it is given: those of the first lanes where they lie, those of
    scattered ones in a copy that is put back. Lanes that wait among the first are put back as they were.
    """

    def __init__(self, **options: Any) -> None:
        """Hold nothing yet; the model's first forward says of which shapes.

        Args:
            options: of transformers' own layer.
        """
        super().__init__(**options)
        self._num_lanes = 0
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._placement: LanePlacement | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def place(self, placement: LanePlacement) -> None:
        """Lay out the states of the lanes that the next forward reads."""
        self._placement = placement
        self.has_previous_state = dict.fromkeys(range(self.number_of_states), placement.resumes)
        self._waiting = []
        for (name, index), buffer in self._buffers.items():
            lanes, waiting = placement.lanes.to(buffer.device), placement.waiting.to(buffer.device)
            getattr(self, name)[index] = buffer[: len(lanes)] if placement.whole else buffer[lanes]
            if len(waiting):
                self._waiting.append((buffer, buffer[waiting]))

    def settle(self) -> None:
        """Take over what the forward has made of the states."""
        assert self._placement is not None
        for name, index, states in list(self._held()):
            if (name, index) not in self._buffers:
                self._buffers[name, index] = states.new_zeros(self._num_lanes, *states.shape[1:])
            buffer = self._buffers[name, index]
            if states.data_ptr() != buffer.data_ptr():
                buffer[self._placement.lanes.to(buffer.device)] = states
            # A view would keep this buffer alive beside the larger one that takes its place.
            getattr(self, name)[index] = None
        for buffer, states in self._waiting:
            buffer[self._placement.waiting.to(buffer.device)] = states
        self._waiting = []

    def resize(self, kept: Sequence[int], size: tuple[int, int]) -> None:
        """Make buffers of another number of lanes; lane i is what `kept[i]` was."""
        if size[0] == self._num_lanes and list(kept) == list(range(len(kept))):
            # Nothing moves but columns, and states have none.
            return
        self._num_lanes = size[0]
        for key, buffer in self._buffers.items():
            larger = buffer.new_zeros(size[0], *buffer.shape[1:])
            larger[: len(kept)] = buffer[list(kept)]
            self._buffers[key] = larger

    def copy(self, source: int, target: int, num_columns: int) -> None:
        """Copy the states of one lane to another."""
        self.load(target, self.save(source))

    def save(self, lane: int) -> LaneStates:
        """Copy of the states of a lane."""
        return tuple(buffer[lane].clone() for buffer in self._buffers.values())

    def load(self, lane: int, states: LaneStates) -> None:
        """Put saved states into a lane."""
        for buffer, saved in zip(self._buffers.values(), states, strict=True):
            buffer[lane] = saved

    def _held(self) -> Iterator[tuple[str, int, Tensor]]:
        """The states as the forward has left them."""
        for name in ("conv_states", "recurrent_states"):
            for index, states in getattr(self, name).items():
                if states is not None:
                    yield name, index, states


class StatefulLaneLayer(StateLayer, LaneLayer):
    """Keys and values beside recurrent and convolution states in the same layer."""

    def __init__(self, **options: Any) -> None:
        """Hold nothing yet."""
        LaneLayer.__init__(self)
        StateLayer.__init__(self, **options)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:
        """Make buffers of keys and values, which are given by position, or of states, which are given by name."""
        (LaneLayer if args else LinearAttentionLayer).lazy_initialization(self, *args, **kwargs)

    def place(self, placement: LanePlacement) -> None:
        """Set the lanes of the next forward."""
        LaneLayer.place(self, placement)
        StateLayer.place(self, placement)

    def resize(self, kept: Sequence[int], size: tuple[int, int]) -> None:
        """Make buffers of another size; lane i is what `kept[i]` was."""
        LaneLayer.resize(self, kept, size)
        StateLayer.resize(self, kept, size)

    def copy(self, source: int, target: int, num_columns: int) -> None:
        """Copy one lane to another."""
        LaneLayer.copy(self, source, target, num_columns)
        StateLayer.copy(self, source, target, num_columns)
