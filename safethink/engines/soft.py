# pyright: standard
"""Embedding rows in place of tokens: the engines that read them, and the table they are looked up in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from safethink.engines import Engine
from safethink.errors import ArtifactError
from safethink.soft import row_ids
from safethink.tokens import FIRST_SOFT_ID, placeholder


@runtime_checkable
class LocalEngine(Engine, Protocol):
    """An engine that has the reasoner's weights."""

    def is_reasoner(self, sha256: str) -> bool:
        """Whether `sha256` is the hash of these weights, see `fingerprints.model_hash`, rounded or not."""
        ...

    def add_rows(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """Make embedding rows readable and return their token ids; see `RowTable.add`."""
        ...

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """What the reasoner's layers read for token ids; see `RowTable.rows`."""
        ...


class RowTable:
    """Looks up what a model reads for token ids, those of soft rows among them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Read tokens through the embedding module of `model`."""
        self._embed = model.get_input_embeddings()
        self._rows: dict[int, Float[Tensor, " hidden"]] = {}

    def add(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """Take rows in and return their ids; rows that are there already keep the ids they have.

        Args:
            rows: what the layers shall read, so as the embedding module puts it out. Where that module scales (Gemma),
                rows are of the scaled space.

        Raises:
            ArtifactError: if they are of another width than the embeddings, or not finite.
        """
        weight = next(self._embed.parameters())
        if rows.shape[1] != weight.shape[1]:
            raise ArtifactError(f"soft rows have {rows.shape[1]} numbers, this reasoner's embeddings {weight.shape[1]}")
        ids = row_ids(rows)
        # Cloned, because a view would follow what is done to the rows later.
        self._rows |= dict(zip(ids, rows.detach().to(weight, copy=True), strict=True))
        return ids

    @torch.no_grad()
    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """What the layers read for `ids`: what the embedding module puts out for tokens, soft rows as they are.

        Raises:
            ArtifactError: if a soft row is not in the table.
        """
        batch = torch.tensor([ids], device=next(self._embed.parameters()).device)
        inputs = self.inputs(batch)
        return (inputs["inputs_embeds"] if "inputs_embeds" in inputs else self._embed(batch))[0]

    def inputs(self, ids: Int[Tensor, "batch new"]) -> dict[str, Tensor]:
        """What a forward of the model takes for `ids`: the ids, or embeddings where there are soft rows among them.

        Raises:
            ArtifactError: if a soft row is not in the table.
        """
        soft = ids >= FIRST_SOFT_ID
        if not soft.any():
            return {"input_ids": ids}
        embeddings = self._embed(ids.masked_fill(soft, 0))
        embeddings[soft] = torch.stack([self._row(token_id) for token_id in ids[soft].tolist()]).to(embeddings)
        return {"inputs_embeds": embeddings}

    def _row(self, token_id: int) -> Float[Tensor, " hidden"]:
        if token_id not in self._rows:
            raise ArtifactError(
                f"{placeholder(token_id)} is not known to this reasoner: its prefix was not bound to it"
            )
        return self._rows[token_id]
