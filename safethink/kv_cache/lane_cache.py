# pyright: standard
"""The lanes of all layers of a model, and the masks that say which of them its tokens attend to.

Axes: see `safethink.kv_cache`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from safethink.kv_cache.lanes import LaneLayer, LanePlacement
from safethink.kv_cache.states import LaneStates, StatefulLaneLayer, StateLayer

ATTENTION_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that attend to keys and values, which can be rolled back."""
STATE_KINDS = {"linear_attention", "conv", "hybrid"}
"""Kinds of layers that keep a state; a hybrid one attends to keys and values as well."""
STATELESS_KINDS = {"mlp", "moe"}
"""Kinds of layers that keep nothing of earlier tokens."""


def layer_kinds(model: PreTrainedModel) -> list[str]:
    """Kind of each layer of a causal language model, as transformers names them."""
    config = model.config.get_text_config()
    return list(getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers)


class LaneCache(Cache):
    """The lanes of all layers, as a model takes them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Hold nothing yet.

        Args:
            model: a causal language model; its configuration says of which kinds its layers are.
        """
        states = {"linear_attention": StateLayer, "conv": StateLayer, "hybrid": StatefulLaneLayer}
        self._lanes: list[LaneLayer | StateLayer] = [states.get(kind, LaneLayer)() for kind in layer_kinds(model)]
        self._states = [layer for layer in self._lanes if isinstance(layer, StateLayer)]
        super().__init__(layers=[*self._lanes])

    def place(self, placement: LanePlacement) -> None:
        """Set the lanes and columns of the next forward."""
        for layer in self._lanes:
            layer.place(placement)

    def settle(self) -> None:
        """Take over what the forward has made of recurrent states."""
        for layer in self._states:
            layer.settle()

    def resize(self, kept: Sequence[int], size: tuple[int, int]) -> None:
        """Make buffers of `size`, lanes and columns; lane i is what `kept[i]` was."""
        for layer in self._lanes:
            layer.resize(kept, size)

    def copy(self, source: int, target: int, num_columns: int) -> None:
        """Copy the first columns of one lane to another, and its states."""
        for layer in self._lanes:
            layer.copy(source, target, num_columns)

    def save_states(self, lane: int) -> list[LaneStates]:
        """Copies of the states of a lane in every layer that keeps one."""
        return [layer.save(lane) for layer in self._states]

    def load_states(self, lane: int, states: Sequence[LaneStates]) -> None:
        """Put saved states into a lane."""
        for layer, saved in zip(self._states, states, strict=True):
            layer.load(lane, saved)


def masks(
    model: PreTrainedModel, positions: Int[Tensor, "batch new"], num_columns: int
) -> dict[str, Tensor | None] | Tensor:
    """Attention masks of the new tokens: causal, and within a window or a chunk where layers have one.

    With p the position of the query and c the column of the key, both of which count tokens from the start of the row:

        full     c <= p
        sliding  p - window < c <= p
        chunked  c <= p  and  c // chunk == p // chunk

    Args:
        model: names the kinds of its layers where they differ.
        positions: of the new tokens; -1 for what counts for nothing.
        num_columns: how many columns there are to look at.

    Returns:
        One mask, or one for each kind of layer; for those that keep a state, which tokens count, None where all do.
    """
    config = model.config.get_text_config()
    columns, places = torch.arange(num_columns, device=positions.device), positions.clamp(min=0)
    seen = (columns <= places[:, :, None])[:, None]
    window, chunk = getattr(config, "sliding_window", None), getattr(config, "attention_chunk_size", None)
    recent = seen if window is None else seen & (columns > places[:, :, None] - window)[:, None]
    near = seen if chunk is None else seen & (columns // chunk == places[:, :, None] // chunk)[:, None]
    if getattr(config, "layer_types", None) is None:
        return _readable(recent, model)
    named = set(layer_kinds(model))
    attended = {"full_attention": seen, "sliding_attention": recent, "chunked_attention": near}
    if not named & STATE_KINDS:
        return {kind: _readable(attended[kind], model) for kind in named}
    # One token is never padding, but in lanes that wait, whose states are put back.
    counted = None if positions.shape[1] == 1 or (positions >= 0).all() else positions >= 0
    kinds = named & ATTENTION_KINDS | {"full_attention"}
    return {kind: _readable(attended[kind], model) for kind in kinds} | dict.fromkeys(STATE_KINDS, counted)


def _readable(mask: Bool[Tensor, "batch 1 new columns"], model: PreTrainedModel) -> Tensor:
    """The mask as the model's attention wants it: added to the scores, but where that is fast as it is."""
    if model.config._attn_implementation == "sdpa":
        return mask
    least = torch.finfo(model.dtype).min
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill(~mask, least)
