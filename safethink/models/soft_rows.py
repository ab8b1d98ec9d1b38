# pyright: standard
"""Soft rows: input rows that are no token's, what ids they go by, and how they are kept in a file.

A row's id is made from its content, so it is the same in every process and for every reasoner, two equal rows are one,
and a record or KV cache that goes by ids can never mistake one row for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from safethink.errors import ArtifactError
from safethink.models.input_rows import RowLayout
from safethink.tokens import FIRST_SOFT_ID, placeholder

ID_BYTES = 6
"""Bytes of the hash in an id: collisions are out of reach, and JSON's numbers still hold it."""


def row_ids(rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
    """The token id of each row, from its values alone, in whatever precision they are kept.

    Raises:
        ArtifactError: if a value is not finite.
    """
    if not torch.isfinite(rows).all():
        raise ArtifactError("a soft row has values that are not finite")
    values = rows.detach().cpu().double().numpy()
    digests = (hashlib.sha256(row.tobytes()).digest()[:ID_BYTES] for row in values)
    return tuple(FIRST_SOFT_ID + int.from_bytes(digest, "big") for digest in digests)


def pack(portfolio: Sequence[Float[Tensor, "_ hidden"]]) -> bytes:
    """The rows of each prefix, in order, as the content of a safetensors file."""
    return save({_name(index): rows.detach().cpu().contiguous() for index, rows in enumerate(portfolio)})


def unpack(content: bytes) -> tuple[Float[Tensor, "_ hidden"], ...]:
    """Read the rows of each prefix from the content of a safetensors file.

    Raises:
        ArtifactError: if it is no such file.
    """
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ArtifactError(f"not a safetensors file: {error}") from error
    names = [_name(index) for index in range(len(tensors))]
    if sorted(tensors) != sorted(names):
        raise ArtifactError(f"it holds {', '.join(sorted(tensors))}, not {', '.join(names)}")
    for name in names:
        if tensors[name].ndim != 2 or not tensors[name].is_floating_point() or 0 in tensors[name].shape:
            raise ArtifactError(f"{name} is {tuple(tensors[name].shape)} of {tensors[name].dtype}, not rows of numbers")
    return tuple(tensors[name] for name in names)


def _name(index: int) -> str:
    return f"prefix.{index}"


class RowTable:
    """Looks up what a model reads for token ids, those of soft rows among them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Look up what the layers of `model` read."""
        self._model = model
        self._rows: dict[int, Float[Tensor, " width"]] = {}

    @cached_property
    def _layout(self) -> RowLayout:
        """See `RowLayout.of`; tried where rows are first asked for."""
        return RowLayout.of(self._model)

    def row_parts(self) -> tuple[int, ...]:
        """Sizes of the parts of a row: the embedding and, where layers read inputs of their own, all of these."""
        return self._layout.parts

    def add(self, rows: Float[Tensor, "rows width"]) -> tuple[int, ...]:
        """Take rows in and return their ids; rows that are there already keep the ids they have.

        Args:
            rows: what the layers shall read, so as the embedding module puts it out, with the inputs of the layers
                behind it where there are any. Where a module scales (Gemma), rows are of the scaled space.

        Raises:
            ArtifactError: if they are of another width than what layers read, or not finite, or if the model takes
                none.
        """
        layout = self._layout
        if layout.refusal:
            name = type(self._model).__name__
            raise ArtifactError(f"soft rows cannot be read by this reasoner ({name}): {layout.refusal}")
        if rows.shape[1] != layout.width:
            read = "embeddings and per-layer inputs" if layout.num_layers else "embeddings"
            raise ArtifactError(f"soft rows have {rows.shape[1]} numbers, this reasoner's {read} {layout.width}")
        ids = row_ids(rows)
        weight = next(self._model.get_input_embeddings().parameters())
        # Cloned, because a view would follow what is done to the rows later.
        self._rows |= dict(zip(ids, rows.detach().to(weight, copy=True), strict=True))
        return ids

    @torch.no_grad()
    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows width"]:
        """Input rows of `ids`: what the layers read for tokens, soft rows as they are.

        Raises:
            ArtifactError: if a soft row is not in the table.
        """
        weight = next(self._model.get_input_embeddings().parameters())
        return self._look_up(torch.tensor([ids], device=weight.device))[0]

    def inputs(self, ids: Int[Tensor, "batch new"]) -> dict[str, Tensor]:
        """Model inputs for `ids`: the ids themselves, or rows where there are soft ones among them.

        Raises:
            ArtifactError: if a soft row is not in the table.
        """
        if not (ids >= FIRST_SOFT_ID).any():
            return {"input_ids": ids}
        return self._layout.inputs(self._look_up(ids))

    def _look_up(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new width"]:
        soft = ids >= FIRST_SOFT_ID
        if not soft.any():
            return self._layout.look_up(self._model, ids)
        rows = self._layout.look_up(self._model, ids.masked_fill(soft, 0))
        rows[soft] = torch.stack([self._row(token_id) for token_id in ids[soft].tolist()]).to(rows)
        return rows

    def _row(self, token_id: int) -> Float[Tensor, " width"]:
        if token_id not in self._rows:
            raise ArtifactError(
                f"{placeholder(token_id)} is not known to this reasoner: its prefix was not bound to it"
            )
        return self._rows[token_id]
