"""Phrases as somebody would list them: a finite pool, or a grammar of slots with one choice each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import TypeAlias

from optimize.config import PhrasesConfig
from safethink.errors import ConfigError

Choice: TypeAlias = dict[str, int]
"""Indices that pick a phrase: its number in the pool, or for every slot that of its choice."""

POOL = "pool"


class Grammar:
    """All phrases of a configuration, the pool's first.

    Args:
        config: has the pool and the slots.

    Raises:
        ConfigError: there is no phrase, or a slot has no choice.
    """

    def __init__(self, config: PhrasesConfig) -> None:
        for number, slot in enumerate(config.slots):
            if not slot:
                raise ConfigError(f"search.slots: slot {number} has no choice")
        self._pool, self._slots = config.pool, config.slots
        if len(self) == 0:
            raise ConfigError("search.pool: there are no phrases; give some in search.pool, or search.slots")

    def __len__(self) -> int:
        return len(self._pool) + (math.prod(map(len, self._slots)) if self._slots else 0)

    def text(self, choice: Choice) -> str:
        """The phrase of a choice; choices of slots are joined as written."""
        if POOL in choice:
            return self._pool[choice[POOL]]
        return "".join(slot[choice[_name(number)]] for number, slot in enumerate(self._slots))

    def choices(self) -> Iterator[Choice]:
        """All choices, in the order in which they are written; the last slot changes fastest."""
        yield from self.of_pool()
        for chosen in product(*(range(len(slot)) for slot in self._slots)) if self._slots else ():
            yield {_name(number): index for number, index in enumerate(chosen)}

    def of_pool(self) -> Iterator[Choice]:
        """The choices of the pool."""
        return ({POOL: index} for index in range(len(self._pool)))

    def sizes(self) -> dict[str, int]:
        """Sizes of the choices, by name: a choice of every slot; without slots, a phrase of the pool."""
        if self._slots:
            return {_name(number): len(slot) for number, slot in enumerate(self._slots)}
        return {POOL: len(self._pool)}

    def neighbours(self, choice: Choice) -> list[Choice]:
        """All choices that differ in one thing."""
        sizes = self.sizes()
        return [choice | {name: other} for name in choice for other in range(sizes[name]) if other != choice[name]]


def _name(number: int) -> str:
    return f"slot {number}"
