# pyright: standard
"""Attention strategies: how candidates are forwarded behind a cached context.

    shared    candidates of one context attend to keys and values that stay at batch 1;
    expanded  every row has a copy of its context's keys and values;
    plain     every row is read with its context in front of it, from the first token on.

The plain strategy is the definition of what is right, for it leans on nothing. The others are faster ways to the same
logits; `pick_strategy` takes the fastest that passes a self-test against it. Where layers keep the state of a
recurrence or a convolution, each row goes on from a copy of it, in either. Axes: see `optimize.scoring`; rows =
contexts * candidates.

Shared: row by row, softmax attention over context and own tokens is the mean of two attentions, weighted by their
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

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import Module
from transformers import AttentionInterface, PreTrainedModel

from optimize.scoring import batches
from optimize.scoring.batches import Batch, Example, prefill
from optimize.scoring.context_cache import KeysValues
from safethink.errors import ConfigError

StrategyName = Literal["auto", "shared", "expanded", "plain"]
Read = Callable[[PreTrainedModel, tuple[int, ...], Sequence[Example]], Batch]
"""Reads those of the examples' contexts that share a batch, by their indices."""

Follow = Callable[[PreTrainedModel, Batch, Num[Tensor, "rows tokens *hidden"], int], Float[Tensor, "rows keep vocab"]]
"""Reads tokens, or embedding rows in place of them, behind the contexts of a batch: context by context, the same number
of rows for each. Says the logits at the last `keep` tokens of every row."""

NUM_CANDIDATES, NUM_TOKENS = 3, 6
"""Size of the self-test."""
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Root mean square difference of the logits, in units of their own; float64 models compute parts of it in float32, and
recurrences altogether."""

logger = logging.getLogger(__name__)

_chosen: WeakKeyDictionary[PreTrainedModel, dict[str, Strategy]] = WeakKeyDictionary()
"""Cache of the choice for each model in each precision, so that its other scorers need not test again."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A pair of forwards: one prefills contexts, the other reads candidates behind them.

    Attributes:
        name: what a configuration calls it.
        read: reads contexts, once.
        follow: reads candidates behind them, again and again.
        rereads: whether that reads the contexts again, too.
    """

    name: str
    read: Read
    follow: Follow
    rereads: bool = False


def follow_expanded(
    model: PreTrainedModel, batch: Batch, rows: Num[Tensor, "rows tokens *hidden"], keep: int
) -> Float[Tensor, "rows keep vocab"]:
    """Logits behind a cache expanded to one row per candidate; a forward adds to it, so it gets a copy."""
    if _steps_alone(batch, rows):
        return follow_expanded(model, batch, _doubled(rows), 2)[:, :1]
    copies = len(rows) // len(batch)
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch), rows.shape[1])], dim=1)
    return model(
        **as_input(rows),
        past_key_values=batch.cache.expand(copies),
        use_cache=True,
        attention_mask=mask.long().repeat_interleave(copies, dim=0),
        position_ids=positions(batch, rows),
        logits_to_keep=keep,
    ).logits


def follow_plain(
    model: PreTrainedModel, batch: Batch, rows: Num[Tensor, "rows tokens *hidden"], keep: int
) -> Float[Tensor, "rows keep vocab"]:
    """Logits without a cache or left padding: a forward per context, over context and rows."""
    parts: list[Tensor] = []
    for example, some in zip(batch.examples, rows.chunk(len(batch)), strict=True):
        context = torch.tensor(example.context, device=rows.device)
        if rows.is_floating_point():
            context = model.get_input_embeddings()(context)
        whole = torch.cat([context.expand(len(some), *context.shape), some], dim=1)
        parts.append(model(**as_input(whole), use_cache=False, logits_to_keep=keep).logits)
    return torch.cat(parts)


def _steps_alone(batch: Batch, rows: Num[Tensor, "rows tokens *hidden"]) -> bool:
    """Whether one token is read behind states.

    Layers have a way of their own for that, made for decoding: it writes into states, and some knows no gradient.
    """
    return batch.cache.has_states and rows.shape[1] == 1


def _doubled(rows: Num[Tensor, "rows 1 *hidden"]) -> Num[Tensor, "rows 2 *hidden"]:
    """The token and another behind it, at which nothing looks."""
    return torch.cat([rows, rows], dim=1)


def as_input(rows: Num[Tensor, "rows tokens *hidden"]) -> dict[str, Tensor]:
    """Token ids or embedding rows, under the name a model knows them by."""
    return {"inputs_embeds" if rows.is_floating_point() else "input_ids": rows}


def positions(batch: Batch, rows: Num[Tensor, "rows tokens *hidden"]) -> Int[Tensor, "rows tokens"]:
    """Position ids of each row's tokens, counted from the start of their context."""
    first = batch.mask.sum(1, keepdim=True)
    ids = first + torch.arange(rows.shape[1], device=rows.device)
    return ids.repeat_interleave(len(rows) // len(batch), dim=0)


EXPANDED = Strategy("expanded", batches.prefill, follow_expanded)
PLAIN = Strategy("plain", batches.read, follow_plain, rereads=True)


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


def follow_shared(
    model: PreTrainedModel, batch: Batch, rows: Num[Tensor, "rows tokens *hidden"], keep: int
) -> Float[Tensor, "rows keep vocab"]:
    """Logits behind one cache for all candidates of a context; with gradients, each context has one row anyway."""
    if torch.is_grad_enabled():
        return follow_expanded(model, batch, rows, keep)
    if _steps_alone(batch, rows):
        return follow_shared(model, batch, _doubled(rows), 2)[:, :1]
    copies = len(rows) // len(batch)
    states = batch.cache.expand(copies, attends=False) if batch.cache.has_states else None
    with _attention(model):
        return model(
            **as_input(rows),
            past_key_values=states,
            use_cache=states is not None,
            position_ids=positions(batch, rows),
            logits_to_keep=keep,
            shared_context=SharedContext.of(batch),
        ).logits


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
def _attention(model: PreTrainedModel) -> Iterator[None]:
    """The model attends to shared contexts, and as before afterwards."""
    AttentionInterface.register(NAME, attend_shared)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


SHARED = Strategy("shared", prefill, follow_shared)
FASTEST_FIRST = (SHARED, EXPANDED, PLAIN)


def pick_strategy(model: PreTrainedModel, examples: Sequence[Example], wanted: StrategyName) -> Strategy:
    """The strategy asked for, or the fastest that suits the reasoner; tested once for each model and logged.

    Args:
        model: the reasoner, in evaluation mode, without gradients.
        examples: what will be scored.
        wanted: its name.

    Raises:
        ConfigError: the strategy asked for does not suit the reasoner.
    """
    known = _chosen.setdefault(model, {})
    key = f"{wanted} {model.dtype} {model.device} {model.config.get_text_config()._attn_implementation}"
    if key not in known:
        known[key] = _find(model, examples, wanted)
    return known[key]


def _find(model: PreTrainedModel, examples: Sequence[Example], wanted: StrategyName) -> Strategy:
    """The first strategy that passes, in the order of their speed."""
    for strategy in FASTEST_FIRST:
        if wanted not in ("auto", strategy.name):
            continue
        complaint = None if strategy is PLAIN else _complaint(model, examples, strategy)
        if complaint is None:
            logger.info("contexts are read the %s way", strategy.name)
            return strategy
        if wanted == strategy.name:
            raise ConfigError(f"objective.attention: {wanted!r} does not suit this reasoner: {complaint}")
        logger.warning("contexts cannot be read the %s way (%s)", strategy.name, complaint)
    raise AssertionError("the plain strategy suits everyone")


def _complaint(model: PreTrainedModel, examples: Sequence[Example], strategy: Strategy) -> str | None:
    """Reason why a strategy does not suit the reasoner; None where it does.

    The shortest and the longest context are read in one batch, with a few candidates made of tokens of the examples.
    """
    lengths = [len(example.context) for example in examples]
    order = tuple({lengths.index(min(lengths)): None, lengths.index(max(lengths)): None})
    known = torch.tensor(sorted({token for example in examples for token in example.context + example.target}))
    drawn = torch.randint(
        len(known), (len(order) * NUM_CANDIDATES, NUM_TOKENS), generator=torch.Generator().manual_seed(0)
    )
    rows = known[drawn].to(model.device)
    expected = PLAIN.follow(model, PLAIN.read(model, order, examples), rows, NUM_TOKENS)
    tolerance = TOLERANCES.get(model.dtype, 0.0)
    try:
        batch = strategy.read(model, order, examples)
        found = strategy.follow(model, batch, rows, NUM_TOKENS)
        if batch.cache.has_states:
            tolerance = max(tolerance, TOLERANCES[torch.float32])
            _flow_back(model, strategy, batch, rows[::NUM_CANDIDATES])
    except Exception as error:  # Whatever an architecture that it was not made for may raise.
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
    difference = (found - expected).double().square().mean().sqrt() / expected.double().std()
    if difference <= tolerance:
        return None
    return f"logits differ by {difference:.1g} of their standard deviation"


@torch.enable_grad()
def _flow_back(model: PreTrainedModel, strategy: Strategy, batch: Batch, rows: Int[Tensor, "contexts tokens"]) -> None:
    """Check that gradients flow, which layers made for decoding may not be fit for; raises whatever they do."""
    leaf = model.get_input_embeddings()(rows).detach().requires_grad_()
    torch.autograd.grad(strategy.follow(model, batch, leaf, NUM_TOKENS).sum(), leaf)
