# pyright: standard
"""Soft rows: embedding rows that are no token's, what ids they go by, and how they are kept in a file.

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
from safethink.tokens import FIRST_SOFT_ID, placeholder

PROBED_TOKENS = 6
"""Tokens that are read in several ways, to see whether a model reads rows."""
NUDGE = 2**-6
"""Share by which rows are moved away from tokens; bfloat16 still tells them apart."""
SAME, NEAR = 1e-4, 1.0
"""Standard deviations of the logits within which two ways of reading come to the same, and near each other."""
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


@torch.no_grad()
def refusal_of_rows(model: PreTrainedModel) -> str:
    """The reason why a model cannot read rows in the place of tokens; empty where it can.

    Found by trying: a few tokens are read as ids, as their own embeddings, which must come to the same, and as rows
    that are near those and no token's, which must come near it. Layers that look tokens up for themselves (Gemma 3n,
    Gemma 4 E2B and E4B) leave that part out, or look for a token that has such an embedding.
    """
    embed = model.get_input_embeddings()
    weight = next(embed.parameters())
    # Spread over the vocabulary, whose first ones are often control tokens.
    ids = (torch.arange(1, PROBED_TOKENS + 1, device=weight.device) * len(weight) // (PROBED_TOKENS + 1))[None]
    rows: Float[Tensor, "1 tokens hidden"] = embed(ids)
    try:
        by_ids, by_rows, nearby = (
            model(**read, use_cache=False).logits.double()
            for read in ({"input_ids": ids}, {"inputs_embeds": rows}, {"inputs_embeds": rows * (1 + NUDGE)})
        )
    # Whatever a model raises at rows is its own; that it does is the answer.
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"it fails at rows that are no token's ({type(error).__name__})"
    spread = by_ids.std().item()
    if not torch.allclose(by_rows, by_ids, rtol=0.0, atol=SAME * spread):
        return "its layers look tokens up for themselves, and read the embeddings of tokens otherwise than the tokens"
    if not torch.allclose(nearby, by_ids, rtol=0.0, atol=NEAR * spread):
        return "its layers look tokens up for themselves, and read rows near those of tokens in another way"
    return ""


class RowTable:
    """Looks up what a model reads for token ids, those of soft rows among them."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Read tokens through the embedding module of `model`."""
        self._model, self._embed = model, model.get_input_embeddings()
        self._rows: dict[int, Float[Tensor, " hidden"]] = {}

    @cached_property
    def _refusal(self) -> str:
        """See `refusal_of_rows`; tried where rows first come."""
        return refusal_of_rows(self._model)

    def add(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """Take rows in and return their ids; rows that are there already keep the ids they have.

        Args:
            rows: what the layers shall read, so as the embedding module puts it out. Where that module scales (Gemma),
                rows are of the scaled space.

        Raises:
            ArtifactError: if they are of another width than the embeddings, or not finite, or if the model takes none.
        """
        if self._refusal:
            name = type(self._model).__name__
            raise ArtifactError(f"soft rows cannot be read by this reasoner ({name}): {self._refusal}")
        weight = next(self._embed.parameters())
        if rows.shape[1] != weight.shape[1]:
            raise ArtifactError(f"soft rows have {rows.shape[1]} numbers, this reasoner's embeddings {weight.shape[1]}")
        ids = row_ids(rows)
        # Cloned, because a view would follow what is done to the rows later.
        self._rows |= dict(zip(ids, rows.detach().to(weight, copy=True), strict=True))
        return ids

    @torch.no_grad()
    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input embeddings of `ids`: the embedding module's output for tokens, soft rows as they are.

        Raises:
            ArtifactError: if a soft row is not in the table.
        """
        batch = torch.tensor([ids], device=next(self._embed.parameters()).device)
        inputs = self.inputs(batch)
        return (inputs["inputs_embeds"] if "inputs_embeds" in inputs else self._embed(batch))[0]

    def inputs(self, ids: Int[Tensor, "batch new"]) -> dict[str, Tensor]:
        """Model inputs for `ids`: the ids themselves, or embeddings where there are soft rows among them.

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
