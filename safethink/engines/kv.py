"""Keys and values of rows that differ in length: kept per row, laid side by side when a batch is forwarded.

The layout is plain left padding, without holes. Rows rarely need equally many new tokens; where one needs fewer than
its neighbours, its last known tokens are forwarded again in place of padding. So every row is contiguous, relative
positions equal column distances, and models with sliding windows stay exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from safethink.engines.soft import RowTable


@dataclass(frozen=True, slots=True)
class RowKV:
    """What one model has read of one row.

    Attributes:
        ids: the token ids that were read.
        layers: keys and values per layer, each `Float[Tensor, "heads length dim"]`.
    """

    ids: tuple[int, ...] = ()
    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    def common(self, ids: Sequence[int]) -> int:
        """Length of the longest common prefix of what was read and `ids`."""
        pairs = enumerate(zip(self.ids, ids, strict=False))
        return next((index for index, (read, wanted) in pairs if read != wanted), min(len(self.ids), len(ids)))


class RaggedBatch:
    """Rows of differing lengths in one left-padded cache; grows by as many tokens for each row.

    Attributes:
        num_forwarded: tokens sent through the model so far, padding included.
    """

    def __init__(
        self, model: PreTrainedModel, cache: DynamicCache, starts: Int[Tensor, " batch"], table: RowTable
    ) -> None:
        """Lay out rows whose first token stands at column `starts` of `cache`; see `read` for the usual way in."""
        self._model = model
        self._cache = cache
        self._starts = starts
        self._table = table
        self.num_forwarded = 0

    @property
    def num_columns(self) -> int:
        """Length of the longest row."""
        return self._cache.get_seq_length()

    @classmethod
    def read(
        cls,
        model: PreTrainedModel,
        rows: Sequence[Sequence[int]],
        known: Sequence[RowKV],
        table: RowTable | None = None,
    ) -> tuple[RaggedBatch, Float[Tensor, "batch vocab"]]:
        """Read `rows`, forwarding only what `known` does not cover.

        Args:
            model: a causal language model.
            rows: the token ids of each row, at least one.
            known: what was read of each row before; a part that differs from the row's ids is ignored.
            table: where soft rows among the ids are looked up; None where there are none.

        Returns:
            The batch, and the logits after the last token of each row.
        """
        batch, new = cls.lay_out(model, rows, known, [1] * len(rows), table)
        return batch, batch.extend(new, num_logits=1)[:, -1]

    @classmethod
    def lay_out(
        cls,
        model: PreTrainedModel,
        rows: Sequence[Sequence[int]],
        known: Sequence[RowKV],
        num_asked: Sequence[int],
        table: RowTable | None = None,
    ) -> tuple[RaggedBatch, Int[Tensor, "batch new"]]:
        """Lay side by side what is known of `rows`, and say what remains to be read.

        Args:
            model: a causal language model.
            rows: the token ids of each row, at least one.
            known: what was read of each row before; a part that differs from the row's ids is ignored.
            num_asked: the last so many tokens of each row are read again where they are known: something is asked of
                them.
            table: where soft rows among the ids are looked up; None where there are none.

        Returns:
            The batch, and the ids to extend it by.
        """
        lengths = [len(ids) for ids in rows]
        asked = zip(rows, known, num_asked, strict=True)
        missing = [len(ids) - min(kv.common(ids), len(ids) - num_last) for ids, kv, num_last in asked]
        num_new, num_columns = max(missing), max(lengths)
        device = model.device
        starts = torch.tensor([num_columns - length for length in lengths], device=device)
        batch = cls(model, _align(lengths, known, num_new, num_columns), starts, table or RowTable(model))
        new = torch.tensor([[0] * max(0, num_new - len(ids)) + list(ids[-num_new:]) for ids in rows], device=device)
        return batch, new

    def extend(self, ids: Int[Tensor, "batch new"], num_logits: int = 0) -> Float[Tensor, "batch kept vocab"]:
        """Append `ids` to every row.

        Args:
            ids: equally many new tokens for each row.
            num_logits: return the logits after the last so many tokens only; 0 for all.
        """
        logits, _ = self._forward(ids, num_logits, hidden=False)
        return logits

    def extend_deeply(
        self, ids: Int[Tensor, "batch new"]
    ) -> tuple[Float[Tensor, "batch vocab"], Float[Tensor, "layers batch hidden"]]:
        """Append `ids` to every row; return the logits and all hidden states of the last token.

        The hidden states are those of transformers: the embeddings, then what each layer puts out; the last one has
        gone through the final norm.
        """
        logits, layers = self._forward(ids, 1, hidden=True)
        return logits[:, -1], torch.stack([layer[:, -1] for layer in layers])

    @torch.inference_mode()
    def _forward(
        self, ids: Int[Tensor, "batch new"], num_logits: int, hidden: bool
    ) -> tuple[Float[Tensor, "batch kept vocab"], tuple[Float[Tensor, "batch new hidden"], ...]]:
        columns = torch.arange(self.num_columns + ids.shape[1], device=ids.device)
        positions = (columns - self._starts[:, None]).clamp(min=0)
        output = self._model(
            **self._table.inputs(ids),
            attention_mask=(columns >= self._starts[:, None]).long(),
            position_ids=positions[:, -ids.shape[1] :],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=num_logits,
            output_hidden_states=hidden,
        )
        self.num_forwarded += ids.numel()
        return output.logits, output.hidden_states or ()

    def crop(self, num_tokens: int) -> None:
        """Take the last `num_tokens` of every row back."""
        self._cache.crop(-num_tokens)

    def select(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep only these rows, in this order; a row may be kept more than once."""
        self._cache.batch_select_indices(rows)
        self._starts = self._starts[rows]

    def row(self, index: int, ids: Sequence[int]) -> RowKV:
        """Copy out what was read of row `index`, whose first tokens are `ids`."""
        span = slice(int(self._starts[index]), int(self._starts[index]) + len(ids))
        # Cloned, because a view would keep the whole batch alive.
        layers = ((keys, values) for keys, values, *_ in self._cache if keys is not None and values is not None)
        copied = [(keys[index, :, span].clone(), values[index, :, span].clone()) for keys, values in layers]
        return RowKV(tuple(ids), tuple(copied))


def _align(lengths: Sequence[int], known: Sequence[RowKV], num_new: int, num_columns: int) -> DynamicCache:
    """Lay the keys and values of all but the last `num_new` columns side by side, left-padded with zeros."""
    filled = next((kv for kv in known if kv.layers), None)
    num_past = num_columns - num_new
    if filled is None or num_past == 0:
        return DynamicCache()

    def column(kv: RowKV, length: int, layer: int, part: int) -> Tensor:
        used = max(0, length - num_new)
        tensor = kv.layers[layer][part][:, :used] if used else filled.layers[layer][part][:, :0]
        return pad(tensor, (0, 0, num_past - used, 0))

    def stack(layer: int, part: int) -> Tensor:
        return torch.stack([column(kv, length, layer, part) for kv, length in zip(known, lengths, strict=True)])

    return DynamicCache((stack(layer, 0), stack(layer, 1)) for layer in range(len(filled.layers)))
