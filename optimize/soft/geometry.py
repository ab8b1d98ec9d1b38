# pyright: standard
"""Geometry of soft rows among the reasoner's embeddings: norms and nearest tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from safethink.engines import LocalEngine

CHUNK = 8192
"""Tokens whose embeddings are looked up at once."""
NUM_MEASURED = 2048
"""Tokens whose length is measured, evenly spread over the vocabulary."""


class Surroundings:
    """The embeddings of the tokens that a prefix may be made of, as the reasoner's layers read them.

    Args:
        engine: the reasoner's.
        allowed: token ids.

    Attributes:
        typical_norm: median length of an embedding.
    """

    def __init__(self, engine: LocalEngine, allowed: Sequence[int]) -> None:
        self._engine, self._allowed = engine, tuple(allowed)
        some = self._allowed[:: max(1, len(self._allowed) // NUM_MEASURED)]
        self.typical_norm = engine.rows(some).double().norm(dim=1).median().item()

    def rows(self, ids: Sequence[int]) -> Float[Tensor, "rows hidden"]:
        """Input embeddings of token ids."""
        return self._engine.rows(ids)

    @torch.no_grad()
    def nearest(self, rows: Float[Tensor, "rows hidden"]) -> tuple[int, ...]:
        """The token whose embedding points most nearly where each row does, as in PEZ (arXiv 2302.03668)."""
        wanted = functional.normalize(rows.double(), dim=1)
        cosines: list[Tensor] = []
        for start in range(0, len(self._allowed), CHUNK):
            embeddings = self._engine.rows(self._allowed[start : start + CHUNK]).double()
            cosines.append(wanted.to(embeddings.device) @ functional.normalize(embeddings, dim=1).T)
        return tuple(self._allowed[index] for index in torch.cat(cosines, dim=1).argmax(1).tolist())

    def excess(self, rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """Norm penalty: mean over rows of max(0, |row| / typical norm - 1)^2.

        Nothing for shorter ones. A row far outside the embeddings leans on what the layers do where nothing was
        trained, and has no token near it.
        """
        return (rows.norm(dim=1) / self.typical_norm - 1).clamp(min=0).square().mean()
