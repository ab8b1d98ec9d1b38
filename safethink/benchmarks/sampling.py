"""A part of some prompts, the same however the file is sorted: a half, or a sample over kinds and categories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from safethink.prompts import Prompt, normalised
from safethink.seeds import stable_seed

Stratum = tuple[str, str]


def half(prompt: Prompt) -> Literal["first", "second"]:
    """The half of any set that a prompt belongs to, told by its words alone: what asks the same is in the same half."""
    return "second" if stable_seed("half", prompt.words_hash) % 2 else "first"


def sample(prompts: Sequence[Prompt], size: int, seed: int) -> tuple[Prompt, ...]:
    """At most `size` prompts, in the order in which they stood.

    Every kind and category keeps its share as nearly as whole numbers allow (largest remainders). Within one, prompts
    are drawn by a hash of their words, so a larger sample of the same shares holds the smaller one's.

    Args:
        prompts: what is drawn from.
        size: how many.
        seed: of the drawing.
    """
    if size >= len(prompts):
        return tuple(prompts)
    strata: dict[Stratum, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        strata[prompt.kind or "", prompt.category or ""].append(place)
    drawn = {
        place
        for stratum, quota in _quotas({key: len(places) for key, places in strata.items()}, size, seed).items()
        for place in sorted(strata[stratum], key=lambda place: _lot(prompts[place], seed))[:quota]
    }
    return tuple(prompt for place, prompt in enumerate(prompts) if place in drawn)


def _quotas(sizes: dict[Stratum, int], size: int, seed: int) -> dict[Stratum, int]:
    """Prompts drawn from each stratum; of equal remainders a lot decides."""
    total = sum(sizes.values())
    quotas = {stratum: count * size // total for stratum, count in sizes.items()}
    by_remainder = sorted(sizes, key=lambda each: (-(sizes[each] * size % total), stable_seed("stratum", seed, *each)))
    for stratum in by_remainder[: size - sum(quotas.values())]:
        quotas[stratum] += 1
    return quotas


def _lot(prompt: Prompt, seed: int) -> tuple[int, str]:
    words = (normalised(message.content) for message in prompt.messages)
    return stable_seed("sample", seed, *words), prompt.id
