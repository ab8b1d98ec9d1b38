"""Benchmarks: named lists of prompts of one kind.

Every kind of section has a file of its name here, with a function `load` that turns the section into prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from safethink.config import BenchmarkConfig, FileSection, JsonlBenchmarkConfig, TestbedBenchmarkConfig, WorldConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Prompts that are evaluated together.

    Attributes:
        name: its name in records and tables.
        prompts: what is asked, each with a `kind`.
        notes: whatever a reader of its numbers must know, such as rows that were left out.
    """

    name: str
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()

    def first(self, n: int) -> Benchmark:
        """The first `n` prompts."""
        return Benchmark(self.name, self.prompts[:n], self.notes)

    def only(self, *kinds: str) -> Benchmark:
        """The prompts of these kinds."""
        return Benchmark(self.name, tuple(prompt for prompt in self.prompts if prompt.kind in kinds), self.notes)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Prompts of a file.

    Attributes:
        prompts: in the file's order.
        notes: whatever a reader of their numbers must know.
    """

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()


def load(config: BenchmarkConfig, world: WorldConfig) -> Benchmark:
    """Load a benchmark.

    Args:
        config: which one.
        world: the testbed's seeds; of no concern to other benchmarks.

    Raises:
        MissingFileError: a file that is not there.
        ConfigError: a row that is no prompt, or no prompt left; the row is named.
        HubError: a dataset of the hub that cannot be had.
    """
    if isinstance(config, TestbedBenchmarkConfig):
        from safethink.benchmarks import testbed

        return Benchmark(config.name, testbed.load(config, world))
    if isinstance(config, JsonlBenchmarkConfig):
        from safethink.benchmarks import jsonl

        return _asked(config, Loaded(jsonl.load(config)))
    return _asked(config, _loader(config.kind)(config))


def _loader(kind: str) -> Callable[[Any], Loaded]:
    """The function `load` of the file that is called as the kind is."""
    return cast("Callable[[Any], Loaded]", import_module(f"safethink.benchmarks.{kind}").load)


def _asked(config: FileSection, loaded: Loaded) -> Benchmark:
    """The prompts of a file that are asked: of a half, in wrappers, and as many as wanted.

    Raises:
        ConfigError: two prompts share an id, or none is left.
    """
    from safethink.benchmarks import sampling, wrappers

    prompts, notes = loaded.prompts, loaded.notes
    if not prompts:
        raise ConfigError(f"{config.path}: no prompts")
    twice = next((id for id, count in Counter(prompt.id for prompt in prompts).items() if count > 1), None)
    if twice is not None:
        raise ConfigError(f"{config.path}: the id {twice!r} stands twice")
    if config.half is not None:
        prompts = tuple(prompt for prompt in prompts if sampling.half(prompt) == config.half)
        notes = (*notes, f"the {config.half} half, {len(prompts)} of {len(loaded.prompts)} prompts")
    if config.wrappers is not None:
        found = wrappers.load(config.wrappers)
        prompts, notes = wrappers.wrap(prompts, found.wrappers), (*notes, *found.notes)
    if config.sample is not None and config.sample < len(prompts):
        notes = (*notes, f"a sample of {config.sample} of {len(prompts)} prompts")
        prompts = sampling.sample(prompts, config.sample, config.sample_seed)
    return Benchmark(config.name, prompts, notes)
