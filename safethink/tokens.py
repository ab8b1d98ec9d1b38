"""Token sequences that remember which tokens were sampled and which were put there by us.

A token id from `FIRST_SOFT_ID` on stands for a soft row: an embedding row that is no token's. So a trace with a soft
prefix in it is a sequence of ids like any other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

FIRST_SOFT_ID: Final = 2**32
"""First id of soft rows, beyond any vocabulary and anything a tokenizer emits."""

EXTENSION_TOKEN: Final = re.compile(r"<\|safe_[0-9]+\|>")
"""Pattern of the added tokens whose embeddings are the rows of a prefix, in a reasoner with an extended vocabulary."""


def is_soft(token_id: int) -> bool:
    """Whether `token_id` stands for a soft row."""
    return token_id >= FIRST_SOFT_ID


def placeholder(token_id: int) -> str:
    """Text form of a soft row, with enough of its id to tell the rows of a prefix apart."""
    return f"⟨soft {(token_id - FIRST_SOFT_ID) & 0xFFFF:04x}⟩"


def num_shared(first: Sequence[object], second: Sequence[object]) -> int:
    """Number of tokens, or characters, that two sequences begin with alike."""
    pairs = zip(first, second, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


@dataclass(frozen=True, slots=True)
class Tokens:
    """A run of token ids, each marked as forced (injected by a defense) or sampled (chosen by the reasoner).

    Attributes:
        ids: the token ids, in order.
        forced: one flag per id; True where a defense put the token there.
    """

    ids: tuple[int, ...] = ()
    forced: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.forced), "one forced flag per id"

    @classmethod
    def sampled(cls, ids: tuple[int, ...]) -> Tokens:
        """Tokens the reasoner chose."""
        return cls(ids, (False,) * len(ids))

    @classmethod
    def injected(cls, ids: tuple[int, ...]) -> Tokens:
        """Tokens a defense put there."""
        return cls(ids, (True,) * len(ids))

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.ids + other.ids, self.forced + other.forced)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, span: slice) -> Tokens:
        return Tokens(self.ids[span], self.forced[span])

    def own(self) -> tuple[int, ...]:
        """Only the ids the reasoner chose: what monitors, objectives and mined targets may see."""
        return tuple(compress(self.ids, (not f for f in self.forced)))
