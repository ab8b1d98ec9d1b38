# pyright: standard
"""KV caches of single rows, for models whose cache cannot roll back: read again from the start after a rollback."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safethink.kv_cache import ReadOutput, common_length, last_states
from safethink.models.soft_rows import RowTable


@dataclass
class _Row:
    """Tokens of one row, and the model's cache of them; None where it has none."""

    ids: list[int] = field(default_factory=list)
    cache: Any = None


class PerRowStore:
    """One cache of the model's own kind per row: recurrent states, ring buffers, whatever it is.

    A row that goes on costs its new tokens alone; one that is rolled back is read again from its beginning.
    """

    def __init__(self, model: PreTrainedModel, table: RowTable | None = None, keeps_cache: bool = True) -> None:
        """Keep nothing yet.

        Args:
            model: any causal language model.
            table: where soft rows among the ids are looked up; None where there are none.
            keeps_cache: whether what was read holds for a longer row; where not, all of a row is read every time.
        """
        self._keeps_cache = keeps_cache
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.num_forwarded = 0
        self._model = model
        self._table = table or RowTable(model)
        self._rows: dict[int, _Row] = {}

    @property
    def num_rows(self) -> int:
        """Number of rows in the cache."""
        return len(self._rows)

    def length(self, row: int) -> int:
        """Number of cached tokens of `row`."""
        return len(self._rows[row].ids) if row in self._rows else 0

    def common(self, row: int, ids: Sequence[int]) -> int:
        """Length of the longest common prefix of what is kept of `row` and `ids`."""
        return common_length(self._rows[row].ids if row in self._rows else (), ids)

    @torch.inference_mode()
    def forward(
        self,
        rows: Sequence[int],
        new: Sequence[Sequence[int]],
        num_logits: int = 1,
        layer: int | None = None,
        num_states: int = 1,
    ) -> ReadOutput:
        """Forward new tokens, at least one, behind the cached ones of each row, row by row."""
        reads = [
            self._forward(row, tokens, num_logits, layer, num_states) for row, tokens in zip(rows, new, strict=True)
        ]
        states = [read.states[0] for read in reads if read.states is not None]
        logits = _aligned([read.logits[0] for read in reads], num_logits)
        return ReadOutput(logits, _aligned(states, num_states) if states else None)

    def mark(self, rows: Iterable[int]) -> None:
        """No-op: no place can be rolled back to but the beginning."""

    def truncate(self, row: int, num_tokens: int) -> None:
        """Forget all of the row, unless it is no longer than that."""
        if self.length(row) > num_tokens:
            self.drop(row)

    def share(self, source: int, targets: Sequence[int]) -> None:
        """Give other rows a copy of what was read of `source`."""
        for target in targets:
            self._rows[target] = deepcopy(self._rows[source])

    def pack(self, rows: Sequence[int]) -> None:
        """No-op: rows have caches of their own."""

    def drop(self, row: int) -> None:
        """Forget a row."""
        self._rows.pop(row, None)

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()

    def _forward(
        self, row: int, tokens: Sequence[int], num_logits: int, layer: int | None, num_states: int
    ) -> ReadOutput:
        kept = self._rows.setdefault(row, _Row())
        kept.ids += tokens
        # A model that returns no cache is given everything again.
        ids = list(tokens) if kept.cache is not None else kept.ids
        positions = torch.arange(len(kept.ids) - len(ids), len(kept.ids), device=self._model.device)[None]
        output = self._model(
            **self._table.inputs(torch.tensor([ids], device=self._model.device)),
            # Some classes count from the start of what they are given, and not from the start of the row.
            **({"position_ids": positions} if self._takes_positions else {}),
            **({} if kept.cache is None else {"past_key_values": kept.cache}),
            use_cache=self._keeps_cache,
            output_hidden_states=layer is not None,
        )
        kept.cache = getattr(output, "past_key_values", None) if self._keeps_cache else None
        self.num_forwarded += len(ids)
        states = None if layer is None else last_states(self._model, output.hidden_states[layer], num_states)
        return ReadOutput(output.logits[:, -num_logits:], states)


def _aligned(rows: Sequence[Float[Tensor, "_ width"]], num: int) -> Float[Tensor, "rows tokens width"]:
    """Rows of `num` tokens or fewer side by side, with zeros in front of the shorter ones."""
    out = rows[0].new_zeros(len(rows), num, rows[0].shape[-1])
    for place, row in enumerate(rows):
        out[place, num - len(row) :] = row
    return out
