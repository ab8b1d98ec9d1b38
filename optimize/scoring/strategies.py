# pyright: standard
"""Attention strategies: how candidates are forwarded behind a cached context.

    expanded  every row has a copy of its context's keys and values;
    plain     every row is read with its context in front of it, from the first token on.

The plain strategy is the definition of what is right, for it leans on nothing. The others are faster ways to the same
logits. Axes: see `optimize.scoring`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from optimize.scoring import batches
from optimize.scoring.batches import Batch
from optimize.scoring.examples import Example

Read = Callable[[PreTrainedModel, tuple[int, ...], Sequence[Example]], Batch]
"""Reads those of the examples' contexts that share a batch, by their indices."""

Follow = Callable[[PreTrainedModel, Batch, Num[Tensor, "rows tokens *hidden"], int], Float[Tensor, "rows keep vocab"]]
"""Reads tokens, or embedding rows in place of them, behind the contexts of a batch: context by context, the same number
of rows for each. Says the logits at the last `keep` tokens of every row."""


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
    """Logits behind a KV cache expanded to one row per candidate; a forward writes into it, so it gets a copy."""
    copies = len(rows) // len(batch)
    pairs = [(k.repeat_interleave(copies, 0), v.repeat_interleave(copies, 0)) for k, v in batch.keys_values]
    mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch), rows.shape[1])], dim=1)
    return model(
        **as_input(rows),
        past_key_values=DynamicCache(pairs),
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
