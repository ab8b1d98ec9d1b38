# pyright: standard
"""Random prefixes: the control that every search must beat at an equal budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optimize.config import RandomConfig
from optimize.search.method import Alphabet, Archive, Ids, Scored, random_prefixes

DRAWS_PER_CANDIDATE = 4
"""Prefixes drawn for each one that is to be scored: many do not survive being written down and read again."""


class Random:
    """Draws every token of every prefix evenly from the vocabulary.

    Args:
        config: how long, how many.
        vocabulary: what prefixes are made of.
        archive: what was tried so far.
    """

    def __init__(self, config: RandomConfig, vocabulary: Alphabet, archive: Archive) -> None:
        self._config, self._archive = config, archive
        self._allowed = torch.tensor(vocabulary.allowed)

    def propose(self, generator: torch.Generator) -> list[Ids]:
        """Random prefixes that were never tried."""
        drawn = random_prefixes(
            self._allowed, self._config.length, DRAWS_PER_CANDIDATE * self._config.candidates, generator
        )
        return [ids for ids in drawn if ids not in self._archive]

    def observe(self, scored: Sequence[Scored]) -> None:
        """Learn nothing from it."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: steps do not depend on each other."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """No-op: there is no state."""
