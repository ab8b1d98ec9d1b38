# pyright: standard
"""Proposals of tokens that read well, from the reasoner's own next-token distribution."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from optimize.scoring import Scorer
from optimize.search.method import Ids

NUM_CONTEXTS = 8
"""Contexts over which is averaged."""


@runtime_checkable
class Proposer(Protocol):
    """Source of likely tokens at each place of a prefix."""

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far."""
        ...

    def next_tokens(self, prefixes: Sequence[Ids], everywhere: bool = False) -> list[Float[Tensor, "gaps allowed"]]:
        """Log-probabilities of the allowed tokens, among themselves.

        Args:
            prefixes: may differ in length.
            everywhere: before every token of a prefix and behind the last one; else there alone.
        """
        ...


class Proposals:
    """Proposes what is likely in all of a few contexts.

    Log-probabilities are averaged, rather than probabilities, as the NLL of a prefix is: what costs little NLL is what
    is said often.

    Args:
        scorer: over the contexts.
        allowed: ids that may enter a prefix.
    """

    def __init__(self, scorer: Scorer, allowed: Sequence[int]) -> None:
        self._scorer, self._allowed = scorer, torch.tensor(allowed)

    @property
    def tokens(self) -> int:
        """Tokens forwarded so far, reading the contexts included."""
        return self._scorer.tokens

    def next_tokens(self, prefixes: Sequence[Ids], everywhere: bool = False) -> list[Float[Tensor, "gaps allowed"]]:
        """Log-probabilities of the allowed tokens, among themselves; prefixes of one length share a forward.

        Args:
            prefixes: may differ in length.
            everywhere: before every token of a prefix and behind the last one; else there alone.
        """
        lengths: dict[int, list[Ids]] = defaultdict(list)
        for ids in dict.fromkeys(prefixes):
            lengths[len(ids)].append(ids)
        found: dict[Ids, Float[Tensor, "gaps allowed"]] = {}
        for length, some in lengths.items():
            batch = torch.tensor(some, dtype=torch.long).view(len(some), length)
            keep = length + 1 if everywhere else 1
            found |= zip(some, self._scorer.next_tokens(batch, self._allowed, keep).log_softmax(-1), strict=True)
        return [found[ids] for ids in prefixes]
