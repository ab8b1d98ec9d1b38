# pyright: standard
"""Micro-batches with OOM back-off: a forward that does not fit is split in half, for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.scoring.batches import Batch
from safethink.errors import SearchError

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
