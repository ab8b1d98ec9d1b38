# pyright: standard
"""The cache of contexts that were read once: keys and values of attention, and states of recurrences and convolutions.

Keys and values have a position for every token, so contexts of different lengths are padded on the left, and masks
leave the padding out. A state sums up all that was read and has one size whatever the length; nothing could be masked
in it afterwards, so whoever fills one reads no padding.

A forward adds to the cache that it is given. Each therefore gets one of its own, a row per candidate, and layers that
put new states in the place of old ones rather than write into them, as transformers' own do: a state is what gradients
are computed from. Axes: see `optimize.scoring`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

KeysValues = tuple[
    Float[Tensor, "contexts kv_heads positions head_dim"], Float[Tensor, "contexts kv_heads positions value_dim"]
]
"""Of one layer."""
States = Mapping[int, Float[Tensor, "contexts ..."]]
"""Of one layer, by number: some layers have several."""
Layer = CacheLayerMixin | LinearAttentionCacheLayerMixin | DummyLayer
"""As transformers has it."""


class DifferentiableStates(LinearAttentionLayer):
    """A layer that keeps states: takes new ones as they are and leaves the old ones, for gradients, alone."""

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: object
    ) -> Float[Tensor, "rows channels positions"]:
        """Keep the last inputs of a convolution, as many as its kernel is long; returns them and what was there before.

        At the beginning there is nothing before, and so as many zeros as are missing.
        """
        before = self.conv_states[state_idx]
        if before is None:
            width = conv_kernel_size or conv_states.shape[-1]
            whole = functional.pad(conv_states, (max(0, width - conv_states.shape[-1]), 0))
        else:
            width = before.shape[-1]
            whole = torch.cat([before, conv_states], dim=-1)
        self.put(state_idx, conv=whole[..., -width:])
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: object) -> Tensor:
        """Keep the new state of a recurrence."""
        self.put(state_idx, recurrent=recurrent_states)
        return recurrent_states

    def put(self, index: int, conv: Tensor | None = None, recurrent: Tensor | None = None) -> None:
        """Keep states, and know from now on that something was read."""
        if conv is not None:
            self.conv_states[index], self.is_conv_states_initialized[index] = conv, True
        if recurrent is not None:
            self.recurrent_states[index], self.is_recurrent_states_initialized[index] = recurrent, True
        self.has_previous_state[index] = True


class DifferentiableStatesAndAttention(DifferentiableStates, LinearAttentionAndFullAttentionLayer):
    """A layer that keeps states and attends, too."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Cache of one layer for some contexts, a row each; empty where the layer keeps nothing of the kind.

    Attributes:
        attention: keys and values.
        conv: the last inputs of its convolutions.
        recurrent: the states of its recurrences.
    """

    attention: KeysValues | None = None
    conv: States = field(default_factory=dict[int, Tensor])
    recurrent: States = field(default_factory=dict[int, Tensor])

    @property
    def has_states(self) -> bool:
        """Whether there are states in it."""
        return bool(self.conv or self.recurrent)

    def select(self, rows: Int[Tensor, "some"], width: int) -> LayerCache:
        """Some of the contexts, with the last `width` positions of keys and values."""
        attention = self.attention
        if attention is not None:
            attention = attention[0][rows, :, -width:], attention[1][rows, :, -width:]
        conv, recurrent = ({i: state[rows] for i, state in some.items()} for some in (self.conv, self.recurrent))
        return LayerCache(attention, conv, recurrent)

    def expand(self, copies: int, attends: bool) -> Layer:
        """A layer as a model takes it, with so many rows for each context.

        Args:
            copies: rows for each context, next to each other.
            attends: whether keys and values are in it.
        """
        if self.attention is None and not self.has_states:
            return DummyLayer()
        num_states = 1 + max([*self.conv, *self.recurrent], default=-1)
        layer = _layer(self.attention is not None, num_states)
        if self.attention is not None and attends:
            assert isinstance(layer, DynamicLayer)
            layer.update(*(each.repeat_interleave(copies, dim=0) for each in self.attention))
        if self.has_states:
            assert isinstance(layer, DifferentiableStates)
            for index, state in self.conv.items():
                layer.put(index, conv=state.repeat_interleave(copies, dim=0))
            for index, state in self.recurrent.items():
                layer.put(index, recurrent=state.repeat_interleave(copies, dim=0))
        return layer


@dataclass(frozen=True, slots=True)
class ContextCache:
    """Cache of some contexts, layer by layer; without layers where a model reads them anew each time."""

    layers: tuple[LayerCache, ...] = ()

    @classmethod
    def of(cls, cache: Cache) -> ContextCache:
        """Take over the tensors that a forward has put into a cache."""
        return cls(tuple(map(_kept, cache.layers)))

    @classmethod
    def stack(cls, caches: Sequence[ContextCache]) -> ContextCache:
        """Contexts below each other, keys and values padded on the left to the longest."""
        if len(caches) == 1:
            return caches[0]
        return cls(tuple(map(_stacked, zip(*(cache.layers for cache in caches), strict=True))))

    @property
    def has_states(self) -> bool:
        """Whether any layer keeps a state."""
        return any(layer.has_states for layer in self.layers)

    @property
    def keys_values(self) -> tuple[KeysValues | None, ...]:
        """Of every layer; None where it does not attend."""
        return tuple(layer.attention for layer in self.layers)

    def select(self, rows: Int[Tensor, "some"], width: int) -> ContextCache:
        """Some of the contexts, the longest of them as long as `width`."""
        return ContextCache(tuple(layer.select(rows, width) for layer in self.layers))

    def expand(self, copies: int, attends: bool = True) -> Cache:
        """A cache as a model takes it, with so many rows for each context.

        Args:
            copies: rows for each context, next to each other.
            attends: whether keys and values are in it.
        """
        cache = DynamicCache()
        cache.layers = [layer.expand(copies, attends) for layer in self.layers]
        return cache


def empty_cache(model: PreTrainedModel) -> Cache:
    """A cache to read contexts into.

    Attention keeps all positions, within sliding windows too: masks do the windowing, and padding would fill a window.

    Raises:
        NotImplementedError: the model keeps what no `LayerCache` holds.
    """
    name = type(model).__name__
    if "cache_params" in inspect.signature(type(model).forward).parameters:
        raise NotImplementedError(f"{name} takes cache_params, not past_key_values")
    cache = DynamicCache(config=model.config)
    if has_states(cache):
        cache.layers = [_empty(layer) for layer in cache.layers]
        return cache
    if getattr(model, "_is_stateful", False):
        raise NotImplementedError(f"{name} keeps states outside of transformers' cache")
    return DynamicCache()


def has_states(cache: Cache) -> bool:
    """Whether layers keep states of recurrences or convolutions."""
    return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)


def _empty(layer: Layer) -> Layer:
    """A layer of this room for one of transformers'."""
    if isinstance(layer, LinearAttentionCacheLayerMixin):
        return _layer(isinstance(layer, DynamicLayer), layer.number_of_states)
    if isinstance(layer, DummyLayer):
        return DummyLayer()
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        raise NotImplementedError(f"a layer with a {type(layer).__name__}")
    return DynamicLayer()


def _layer(attends: bool, num_states: int) -> DynamicLayer | DifferentiableStates:
    if num_states == 0:
        return DynamicLayer()
    return DifferentiableStatesAndAttention(num_states) if attends else DifferentiableStates(num_states)


def _kept(layer: Layer) -> LayerCache:
    attention = None
    if isinstance(layer, CacheLayerMixin) and layer.keys is not None and layer.values is not None:
        attention = layer.keys, layer.values
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return LayerCache(attention)
    return LayerCache(attention, _present(layer.conv_states), _present(layer.recurrent_states))


def _present(states: Mapping[int, Tensor | None]) -> dict[int, Tensor]:
    return {index: state for index, state in states.items() if state is not None}


def _stacked(layers: Sequence[LayerCache]) -> LayerCache:
    """One layer of several caches; in all of them it keeps the same kinds of things."""
    pairs = [layer.attention for layer in layers if layer.attention is not None]
    attention = (_padded([keys for keys, _ in pairs]), _padded([values for _, values in pairs])) if pairs else None
    conv = {index: torch.cat([layer.conv[index] for layer in layers]) for index in layers[0].conv}
    recurrent = {index: torch.cat([layer.recurrent[index] for layer in layers]) for index in layers[0].recurrent}
    return LayerCache(attention, conv, recurrent)


def _padded(rows: Sequence[Float[Tensor, "_ kv_heads _ dim"]]) -> Float[Tensor, "contexts kv_heads positions dim"]:
    width = max(each.shape[-2] for each in rows)
    # Zeros: what is masked out is still multiplied, and an arbitrary bit pattern may be no number.
    return torch.cat([functional.pad(each, (0, 0, width - each.shape[-2], 0)) for each in rows])
