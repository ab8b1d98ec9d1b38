# pyright: standard
"""Starting points of a search: the init text, filled up with random tokens, or random tokens alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from optimize.config import MethodConfig
from optimize.search.archive import Archive
from optimize.search.method import Alphabet, Ids
from safethink.errors import ConfigError
from safethink.tokens import is_soft

MAX_DRAWS = 256
"""Random prefixes looked at before giving up on finding one that survives."""
BLOCK = 32
"""Prefixes that are written down and read again at once."""


def start_ids(init_ids: Ids | None, config: MethodConfig) -> Ids:
    """Token ids that the first start begins with; none for a random start, or a method that begins nowhere.

    Args:
        init_ids: `config.init` as token ids; None where there is none.
        config: the search's section.

    Raises:
        ConfigError: the init text is longer than the prefix may be, or rows are to start a search over tokens.
    """
    if not config.begins_with_init:
        return ()
    if init_ids is not None and config.kind != "soft" and any(map(is_soft, init_ids)):
        raise ConfigError(f"search.init: {config.init!r} is a soft prefix, from which only search.kind soft starts")
    if init_ids is not None and len(init_ids) > config.length:
        raise ConfigError(
            f"search.init: {config.init!r} has {len(init_ids)} tokens, search.length is {config.length}; "
            "give a shorter text, or null for random tokens"
        )
    return init_ids or ()


def random_prefixes(
    allowed: Int[Tensor, "allowed"], length: int, count: int, generator: torch.Generator, kept: Ids = ()
) -> list[Ids]:
    """Random prefixes, each different; first `kept` filled up with random tokens, where something is kept.

    Args:
        allowed: ids that may take a place.
        length: number of tokens.
        count: how often to draw.
        generator: the source of randomness.
        kept: how the first ones begin.
    """
    draws = torch.randint(len(allowed), (count, length), generator=generator)
    randoms: list[Ids] = [tuple(ids) for ids in allowed[draws].tolist()]
    filled = [kept + ids[len(kept) :] for ids in randoms] if kept else []
    return list(dict.fromkeys([*filled, *randoms]))


def first_survivor(candidates: Sequence[Ids], vocabulary: Alphabet, archive: Archive) -> list[Ids]:
    """The first candidate that was never tried and is the same ids after being read again; empty without one."""
    untried = [ids for ids in candidates if ids not in archive]
    for start in range(0, len(untried), BLOCK):
        block = untried[start : start + BLOCK]
        alive = [ids for ids, survives in zip(block, vocabulary.survive(block), strict=True) if survives]
        if alive:
            return alive[:1]
    return []
