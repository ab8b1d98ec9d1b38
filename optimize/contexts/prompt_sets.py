"""Published benchmarks as what a prefix is learned on, kept apart from each other and from what is held out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from optimize.config import PromptSetsConfig
from optimize.contexts import splits
from optimize.contexts.splits import Split
from safethink import benchmarks
from safethink.config import BenchmarkConfig, WorldConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt
from safethink.seeds import stable_seed

logger = logging.getLogger(__name__)


def load(config: PromptSetsConfig) -> tuple[Split, Split]:
    """Search and validation prompts; none asks what is held out, and `search` asks nothing that `validation` does.

    Prompts of several benchmarks are shuffled, by their words alone, so that the first so many are of all of them.

    Raises:
        MissingFileError: a file is not there.
        ConfigError: a row that is no prompt, an id in two benchmarks, or a side without attacks.
        HubError: a dataset of the hub that cannot be had.
    """
    return _sides(config, prompts_of(config.either), words(prompts_of(config.held_out)))


def load_with_test(
    config: PromptSetsConfig, test: Sequence[BenchmarkConfig]
) -> tuple[Split, Split, tuple[Prompt, ...]]:
    """Search and validation prompts as `load` has them, and those to report on, which no other side asks.

    Args:
        config: the benchmarks to learn from.
        test: those to report on; where there are none, a third of `either` takes their place.

    Raises:
        SafeThinkError: as `load`.
    """
    held_out = words(prompts_of(config.held_out))
    either, tested = prompts_of(config.either), _left(prompts_of(test), held_out, "test")
    if not test:
        rest, third = splits.of_prompts(_left(either, held_out, "either"))
        either, tested = list(rest.prompts), list(third.prompts)
    search, validation = _sides(config, either, held_out | words(tested))
    _refuse_shared_ids([*search.prompts, *validation.prompts, *tested])
    return search, validation, tuple(sorted(tested, key=_lot))


def words(prompts: Iterable[Prompt]) -> set[str]:
    """Hashes of what some prompts ask."""
    return {prompt.words_hash for prompt in prompts}


def _sides(config: PromptSetsConfig, either: Sequence[Prompt], held_out: set[str]) -> tuple[Split, Split]:
    search, validation = map(prompts_of, (config.search, config.validation))
    _refuse_shared_ids([*either, *search, *validation])
    validation = _left(validation, held_out, "validation")
    search = _left(search, held_out | words(validation), "search")
    sides = (splits.side("search", search), splits.side("validation", validation))
    if either:
        known = words((*search, *validation))
        more = splits.of_prompts(_left(either, held_out | known, "either"))
        sides = tuple(splits.side(a.name, a.prompts + b.prompts) for a, b in zip(sides, more, strict=True))
    first, second = (splits.side(each.name, sorted(each.prompts, key=_lot)) for each in sides)
    for split in (first, second):
        if not split.attacks:
            raise ConfigError(f"prompt_sets: no attacks to learn from in {split.name!r}")
    return first, second


def prompts_of(sections: Sequence[BenchmarkConfig]) -> list[Prompt]:
    """All prompts of some benchmarks; what a reader must know of one is said.

    Raises:
        SafeThinkError: as `load`.
    """
    loaded = [benchmarks.load(each, WorldConfig()) for each in sections]
    for each in loaded:
        for note in each.notes:
            logger.warning("%s: %s", each.name, note)
    return [prompt for each in loaded for prompt in each.prompts]


def _left(prompts: Sequence[Prompt], held_out: set[str], where: str) -> list[Prompt]:
    left = [prompt for prompt in prompts if prompt.words_hash not in held_out]
    if len(left) < len(prompts):
        logger.warning("prompt_sets.%s: %d prompts left out, held out elsewhere", where, len(prompts) - len(left))
    return left


def _refuse_shared_ids(prompts: Sequence[Prompt]) -> None:
    twice = next((id for id, count in Counter(prompt.id for prompt in prompts).items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"prompt_sets: the id {twice!r} stands in two benchmarks")


def _lot(prompt: Prompt) -> int:
    return stable_seed("prompt_sets", prompt.words_hash)
