# pyright: standard
"""Attention of many candidates to one context, whose keys and values stay at batch 1.

Row by row, softmax attention over context and own tokens is the mean of two attentions, weighted by their
normalisers (Hydragen, arXiv 2402.05099, section 3.1):

    out = (e^a out_context + e^b out_own) / (e^a + e^b),    a, b = log-sum-exp of the scores of either part
        = out_own + sigmoid(a - b) (out_context - out_own)

which is the step by which online softmax (Milakov and Gimelshein, arXiv 1805.02867) and FlashAttention-2 (Dao, arXiv
2307.08691) merge blocks of keys.

All candidates of a context attend to it as if they were one long row, which needs no mask but that of padding; each
attends causally to its own tokens. No keys are copied per candidate. transformers' attention interface puts it in place
of a model's attention for the length of one forward; the model itself is not touched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from transformers import AttentionInterface, PreTrainedModel

from optimize.scoring.batches import Batch
from optimize.scoring.context_cache import KeysValues

NAME = "safethink_shared_context"
UNSUPPORTED = ("s_aux", "softcap", "sliding_window", "position_bias", "head_mask")
"""Features of some models' attention beside softmax over everything before: sinks, capped scores, windows, biases."""

Bias = Float[Tensor, "contexts 1 1 positions"] | None


@dataclass(frozen=True, slots=True)
class SharedContext:
    """Keys and values that all candidates of a context attend to.

    Attributes:
        keys_values: per layer, one row per context; None where a layer does not attend.
        bias: 0 at real positions and -inf at padding; None without padding.
    """

    keys_values: tuple[KeysValues | None, ...]
    bias: Bias

    @classmethod
    def of(cls, batch: Batch) -> SharedContext:
        """Build it from a batch's cache.

        Raises:
            NotImplementedError: no layer attends.
        """
        keys_values = batch.cache.keys_values
        some = next((pair for pair in keys_values if pair is not None), None)
        if some is None:
            raise NotImplementedError("no layer attends")
        if len({len(example.context) for example in batch.examples}) == 1:
            return cls(keys_values, None)
        bias = some[0].new_zeros(batch.mask.shape).masked_fill(~batch.mask, -math.inf)
        return cls(keys_values, bias[:, None, None])


def attend_shared(
    module: Module,
    query: Float[Tensor, "rows heads tokens head_dim"],
    key: Float[Tensor, "rows kv_heads tokens head_dim"],
    value: Float[Tensor, "rows kv_heads tokens head_dim"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_context: SharedContext | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "rows tokens heads head_dim"], None]:
    """Attention as transformers' interface has it, to a shared context and to a row's own tokens.

    Raises:
        NotImplementedError: the model's attention is of another kind, or does not say which context is meant.
    """
    unsupported = [name for name in UNSUPPORTED if kwargs.get(name) is not None]
    if shared_context is None or attention_mask is not None or dropout or unsupported:
        raise NotImplementedError(f"attention with {', '.join(unsupported) or 'arguments of another kind'}")
    scale = scaling or query.shape[-1] ** -0.5
    groups, layer = query.shape[1] // key.shape[1], module.layer_idx
    assert isinstance(layer, int), "a layer has a number"
    kept = shared_context.keys_values[layer]
    if kept is None or kept[0].shape[1::2] != key.shape[1::2] or kept[1].shape[1::2] != value.shape[1::2]:
        raise NotImplementedError("attention to other keys and values than those in the cache")
    context_key, context_value = (each.repeat_interleave(groups, dim=1) for each in kept)
    # All candidates of a context as one long row, then row by row again.
    rows, heads, tokens, _ = query.shape
    long = query.transpose(1, 2).reshape(len(context_key), -1, heads, query.shape[-1]).transpose(1, 2)
    context_out, context_lse = _attend(long, context_key, context_value, scale, shared_context.bias, causal=False)
    context_out = context_out.transpose(1, 2).reshape(rows, tokens, heads, -1)
    context_lse = context_lse.transpose(1, 2).reshape(rows, tokens, heads, 1)
    own_key, own_value = (own.repeat_interleave(groups, dim=1) for own in (key, value))
    own_out, own_lse = _attend(query, own_key, own_value, scale, None, causal=True)
    own_out, own_lse = own_out.transpose(1, 2), own_lse.transpose(1, 2)[..., None]
    # out = own + sigmoid(a - b) (context - own): no exponential of a score that is not bounded.
    return own_out.lerp(context_out, (context_lse - own_lse).sigmoid().to(own_out.dtype)), None


def _attend(
    query: Float[Tensor, "batch heads queries head_dim"],
    key: Float[Tensor, "batch heads keys head_dim"],
    value: Float[Tensor, "batch heads keys value_dim"],
    scale: float,
    bias: Float[Tensor, "batch 1 1 keys"] | None,
    causal: bool,
) -> tuple[Float[Tensor, "batch heads queries value_dim"], Float[Tensor, "batch heads queries"]]:
    """Attention and the log-sum-exp of its scores, which torch's public function keeps to itself.

    scores = scale * query key^T + bias,    lse = log sum_k exp(scores_k),    out = exp(scores - lse) value
    """
    # A private operator of torch for the CPU; elsewhere, and where values have another width, the same by hand.
    # `test_strategies` pins the two to each other, so that a release that changes the operator is noticed.
    if query.device.type == "cpu" and key.shape[-1] == value.shape[-1]:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, causal, attn_mask=bias, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    if causal:
        later = scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    lse = torch.logsumexp(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1)
    return (scores - lse[..., None]).exp().to(value.dtype) @ value, lse


@contextmanager
def sharing(model: PreTrainedModel) -> Iterator[None]:
    """The model attends to shared contexts, and as before afterwards."""
    AttentionInterface.register(NAME, attend_shared)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
