"""Engines produce the reasoner's tokens: ids in, ids out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from safethink.defenses.effects import Extension, Until


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: nucleus mass; 1 keeps everything.
        top_k: number of most likely tokens kept; 0 keeps everything.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class ExtendRequest:
    """One row of a batch handed to an engine.

    Attributes:
        row: a stable key; the engine may keep this row's KV cache under it between calls.
        ids: everything so far, prompt and trace, as token ids.
        step_start: index into `ids` where the text that a delimiter may complete begins.
        until: where to stop.
        max_new_tokens: the most tokens to produce.
        seed: seeds a stream of random numbers, of which a token takes the one at its own position; equal ids and seed
            give equal tokens whatever else is in the batch.
    """

    row: int
    ids: tuple[int, ...]
    step_start: int
    until: Until
    max_new_tokens: int
    seed: int


@runtime_checkable
class Engine(Protocol):
    """Continues token ids."""

    def extend(self, requests: Sequence[ExtendRequest]) -> list[Extension]:
        """Continue every request to its own stop, in order. Rows never influence each other."""
        ...

    def release(self, row: int) -> None:
        """Forget what was cached for `row`."""
        ...
