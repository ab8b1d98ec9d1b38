# pyright: standard
"""Soft rows: embedding rows that are no token's, what ids they go by, and how they are kept in a file.

A row's id is made from its content, so it is the same in every process and for every reasoner, two equal rows are one,
and a record or KV cache that goes by ids can never mistake one row for another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from safethink.errors import ArtifactError
from safethink.tokens import FIRST_SOFT_ID

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
    """What `pack` was given.

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
