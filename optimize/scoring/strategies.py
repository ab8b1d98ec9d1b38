# pyright: standard
"""Attention strategies: how candidates are forwarded behind a cached context.

    shared    candidates of one context attend to keys and values that stay at batch 1;
    expanded  every row has a copy of its context's keys and values;
    plain     every row is read with its context in front of it, from the first token on.

The plain strategy is the definition of what is right, for it leans on nothing. The others are faster ways to the same
logits; `pick_strategy` takes the fastest that passes a self-test against it. Where layers keep the state of a
recurrence or a convolution, each row goes on from a copy of it, in either. Axes: see `optimize.scoring`; rows =
contexts * candidates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from transformers import PreTrainedModel

from optimize.scoring import batches
from optimize.scoring.batches import Batch, Example, prefill
from optimize.scoring.shared_attention import SharedContext, sharing
from safethink.errors import ConfigError
from safethink.kv_cache.choose import VARYING_ROPES, rope_type
from safethink.models.input_rows import RowLayout

StrategyName = Literal["auto", "shared", "expanded", "plain"]
Read = Callable[[PreTrainedModel, tuple[int, ...], Sequence[Example]], Batch]
"""Reads those of the examples' contexts that share a batch, by their indices."""

Follow = Callable[[PreTrainedModel, Batch, Num[Tensor, "rows tokens *hidden"], int], Float[Tensor, "rows keep vocab"]]
"""Reads tokens, or input rows in place of them, behind the contexts of a batch: context by context, the same number
of rows for each. Says the logits at the last `keep` tokens of every row."""

NUM_CANDIDATES, NUM_TOKENS = 3, 6
"""Size of the self-test."""
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Root mean square difference of the logits, in units of their own; float64 models compute parts of it in float32, and
recurrences altogether."""

ROOM = 256
"""Tokens that a prefix may have, when it is asked whether a text may outgrow a window."""

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
        **as_input(model, rows),
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
            context = RowLayout.of(model).look_up(model, context)
        whole = torch.cat([context.expand(len(some), *context.shape), some], dim=1)
        parts.append(model(**as_input(model, whole), use_cache=False, logits_to_keep=keep).logits)
    return torch.cat(parts)


def _steps_alone(batch: Batch, rows: Num[Tensor, "rows tokens *hidden"]) -> bool:
    """Whether one token is read behind states.

    Layers have a way of their own for that, made for decoding: it writes into states, and some knows no gradient.
    """
    return batch.cache.has_states and rows.shape[1] == 1


def _doubled(rows: Num[Tensor, "rows 1 *hidden"]) -> Num[Tensor, "rows 2 *hidden"]:
    """The token and another behind it, at which nothing looks."""
    return torch.cat([rows, rows], dim=1)


def as_input(model: PreTrainedModel, rows: Num[Tensor, "rows tokens *hidden"]) -> dict[str, Tensor]:
    """Token ids or input rows, under the names a model knows them by."""
    return RowLayout.of(model).inputs(rows) if rows.is_floating_point() else {"input_ids": rows}


def positions(batch: Batch, rows: Num[Tensor, "rows tokens *hidden"]) -> Int[Tensor, "rows tokens"]:
    """Position ids of each row's tokens, counted from the start of their context."""
    first = batch.mask.sum(1, keepdim=True)
    ids = first + torch.arange(rows.shape[1], device=rows.device)
    return ids.repeat_interleave(len(rows) // len(batch), dim=0)


EXPANDED = Strategy("expanded", batches.prefill, follow_expanded)
PLAIN = Strategy("plain", batches.read, follow_plain, rereads=True)


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
    read = as_input(model, rows)
    with sharing(model):
        return model(
            **read,
            past_key_values=states,
            use_cache=states is not None,
            position_ids=positions(batch, rows),
            logits_to_keep=keep,
            shared_context=SharedContext.of(batch),
        ).logits


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
    attention = model.config.get_text_config()._attn_implementation
    key = f"{wanted} {model.dtype} {model.device} {attention} {_varying_positions(model, examples)}"
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
    varying = _varying_positions(model, examples)
    if varying is not None:
        return varying
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


def _varying_positions(model: PreTrainedModel, examples: Sequence[Example]) -> str | None:
    """Reason why what was read of a context may not hold for the text behind it; None where it does.

    Some rotary embeddings turn positions otherwise where the longest text of a forward outgrows the window that the
    model was first trained with.
    """
    config, kind = model.config.get_text_config(), rope_type(model)
    if kind not in VARYING_ROPES:
        return None
    window = config.rope_parameters.get("original_max_position_embeddings") or config.max_position_embeddings
    shortest = min(len(example.context) for example in examples)
    longest = max(len(example.context + example.separator + example.target) for example in examples) + ROOM
    if longest <= window or (kind == "longrope" and shortest > window):
        return None
    return f"it turns positions by {kind!r}, otherwise in texts of more than {window} tokens"


@torch.enable_grad()
def _flow_back(model: PreTrainedModel, strategy: Strategy, batch: Batch, rows: Int[Tensor, "contexts tokens"]) -> None:
    """Check that gradients flow, which layers made for decoding may not be fit for; raises whatever they do."""
    leaf = RowLayout.of(model).look_up(model, rows).detach().requires_grad_()
    torch.autograd.grad(strategy.follow(model, batch, leaf, NUM_TOKENS).sum(), leaf)
