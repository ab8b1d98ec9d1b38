# pyright: standard
"""Examples, batches of their contexts with a KV cache (prefix caching), and micro-batches with OOM back-off.

Contexts of differing lengths are padded on the left, masked, with their own position ids; what follows a prefix is
padded on the right, where causal attention never looks. A forward that does not fit is split in half, for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from optimize.scoring.context_cache import ContextCache, empty_cache, has_states
from optimize.scoring.modes import at_least_float32
from safethink.errors import SearchError


@dataclass(frozen=True, slots=True)
class Example:
    """One context and the target whose loss a prefix, put between both, should lower.

    Attributes:
        context: prompt and trace, as token ids.
        target: the continuation to be made likely, as token ids.
        separator: what is injected right behind the prefix, as token ids; it is read, but costs nothing.
    """

    context: tuple[int, ...]
    target: tuple[int, ...]
    separator: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Some contexts, padded to one length, with their KV cache: one row per context, whatever is scored in it.

    Attributes:
        order: where these contexts stand among all of the scorer's.
        examples: the contexts themselves, and what follows the prefix in each.
        cache: what the model keeps of the contexts.
        mask: which positions are real; padding is on the left.
        first_nll: what each token of the vocabulary costs right after the context.
        target: what follows the prefix: separator and target, padded on the right.
        target_mask: which positions of it count: those of the target.
    """

    order: tuple[int, ...]
    examples: tuple[Example, ...]
    cache: ContextCache
    mask: Bool[Tensor, "contexts positions"]
    first_nll: Float[Tensor, "contexts vocab"]
    target: Int[Tensor, "contexts target"]
    target_mask: Bool[Tensor, "contexts target"]

    def __len__(self) -> int:
        return len(self.order)

    def select(self, rows: Sequence[int]) -> Batch:
        """Some of these contexts, no wider than the longest of them."""
        if len(rows) == len(self):
            return self
        index = torch.tensor(rows, device=self.mask.device)
        width = max(len(self.examples[row].context) for row in rows)
        return Batch(
            tuple(self.order[row] for row in rows),
            tuple(self.examples[row] for row in rows),
            self.cache.select(index, width),
            self.mask[index, -width:],
            self.first_nll[index],
            self.target[index],
            self.target_mask[index],
        )


def lay_out(
    examples: Sequence[Example], contexts_per_batch: int, processes: int = 1, pairs: bool = False
) -> list[tuple[int, ...]]:
    """Partition of the contexts into batches of about the same length.

    Args:
        examples: all of them.
        contexts_per_batch: the most contexts in a batch.
        processes: that share the batches; none should go without.
        pairs: whether there should be an even number of batches, so that one process and two compute the very same; a
            forward more costs a little more.
    """
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].context))
    enough = -(-len(order) // contexts_per_batch)
    count = min(max(enough + (pairs and enough % 2), processes), len(order))
    bounds = [round(part * len(order) / count) for part in range(count + 1)]
    return [tuple(order[start:end]) for start, end in pairwise(bounds)]


def prefill(model: PreTrainedModel, order: tuple[int, ...], examples: Sequence[Example]) -> Batch:
    """Read some contexts and keep what the model keeps of them.

    All are read in one forward, but where there are states, which padding would get into: then those of one length.

    Args:
        model: the reasoner.
        order: which of the examples, by length.
        examples: all of them.

    Raises:
        NotImplementedError: the model keeps what no `ContextCache` holds.
    """
    some = tuple(examples[index] for index in order)
    groups = [some]
    if has_states(empty_cache(model)):
        groups = [tuple(group) for _, group in groupby(some, key=lambda example: len(example.context))]
    caches, logits = zip(*(_read_together(model, group) for group in groups), strict=True)
    _, mask = pad([example.context for example in some], left=True, device=model.device)
    return _batch(order, some, ContextCache.stack(caches), mask, torch.cat(logits))


def _read_together(
    model: PreTrainedModel, examples: Sequence[Example]
) -> tuple[ContextCache, Float[Tensor, "contexts vocab"]]:
    """One forward over some contexts: their cache, and the logits behind them."""
    contexts, mask = pad([example.context for example in examples], left=True, device=model.device)
    cache = empty_cache(model)
    logits = model(
        input_ids=contexts,
        attention_mask=mask.long(),
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return ContextCache.of(cache), logits[:, -1]


def read(model: PreTrainedModel, order: tuple[int, ...], examples: Sequence[Example]) -> Batch:
    """Read some contexts, each in a forward of its own, and keep nothing but what may come next.

    Args:
        model: the reasoner.
        order: which of the examples.
        examples: all of them.
    """
    some = tuple(examples[index] for index in order)
    _, mask = pad([example.context for example in some], left=True, device=model.device)
    alone = [torch.tensor([example.context], device=model.device) for example in some]
    last = [model(input_ids=context, use_cache=False, logits_to_keep=1).logits[:, -1] for context in alone]
    return _batch(order, some, ContextCache(), mask, torch.cat(last))


def pad(
    rows: Sequence[tuple[int, ...]], left: bool, device: torch.device
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """Rows of token ids as one tensor, and which of its places are real."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for index, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(len(row))
        ids[index, span] = torch.tensor(row, dtype=torch.long)
        mask[index, span] = True
    return ids.to(device), mask.to(device)


def _batch(
    order: tuple[int, ...],
    examples: tuple[Example, ...],
    cache: ContextCache,
    mask: Bool[Tensor, "contexts positions"],
    last_logits: Float[Tensor, "contexts vocab"],
) -> Batch:
    followed = [example.separator + example.target for example in examples]
    target, target_mask = pad(followed, left=False, device=mask.device)
    for row, example in enumerate(examples):
        target_mask[row, : len(example.separator)] = False
    first_nll = -at_least_float32(last_logits).log_softmax(-1)
    return Batch(order, examples, cache, mask, first_nll, target, target_mask)


Measure = Callable[[Batch, Int[Tensor, "candidates length"]], Float[Tensor, "..."]]
"""One forward over some candidates in the contexts of a batch."""

Piece = tuple[Batch, Int[Tensor, "_"]]
"""Contexts, and which of the candidates are scored in them."""


class MicroBatcher:
    """Micro-batching with OOM back-off; a size that was too large is never tried again.

    Args:
        rows_per_forward: the most (candidate, context) pairs in one forward.

    Attributes:
        rows_per_forward: halved where the memory did not suffice.
    """

    def __init__(self, rows_per_forward: int) -> None:
        self.rows_per_forward = rows_per_forward

    def run(
        self, batch: Batch, candidates: Int[Tensor, "candidates length"], measure: Measure
    ) -> Iterator[tuple[Batch, Int[Tensor, "some"], Float[Tensor, "..."]]]:
        """Measure all candidates in all contexts of a batch; yields contexts, indices of candidates, and the result.

        Raises:
            SearchError: the memory does not suffice for a single row.
        """
        todo = self._split(batch, torch.arange(len(candidates)))
        while todo:
            some, chosen = todo.pop()
            size = len(some) * len(chosen)
            if size > self.rows_per_forward:
                todo += self._split(some, chosen)
                continue
            try:
                part = measure(some, candidates[chosen])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise SearchError("out of memory on one candidate in one context") from error
                self.rows_per_forward = size // 2
                todo.append((some, chosen))
            else:
                yield some, chosen, part

    def _split(self, batch: Batch, chosen: Int[Tensor, "some"]) -> list[Piece]:
        """Pieces of no more than `rows_per_forward` rows."""
        width = min(len(batch), self.rows_per_forward)
        spans = [range(start, min(start + width, len(batch))) for start in range(0, len(batch), width)]
        parts = chosen.split(max(1, self.rows_per_forward // width))
        return [(batch.select(span), part) for span in spans for part in parts]
