"""Benchmarks: named lists of prompts of one kind."""

from __future__ import annotations

from dataclasses import dataclass

from safethink.config import BenchmarkConfig, JsonlBenchmarkConfig, TestbedBenchmarkConfig, WorldConfig
from safethink.prompts import Prompt


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Prompts that are evaluated together.

    Attributes:
        name: its name in records and tables.
        prompts: what is asked, each with a `kind`.
    """

    name: str
    prompts: tuple[Prompt, ...]

    def first(self, n: int) -> Benchmark:
        """The first `n` prompts."""
        return Benchmark(self.name, self.prompts[:n])

    def only(self, *kinds: str) -> Benchmark:
        """The prompts of these kinds."""
        return Benchmark(self.name, tuple(prompt for prompt in self.prompts if prompt.kind in kinds))


def load(config: BenchmarkConfig, world: WorldConfig) -> Benchmark:
    """Load a benchmark.

    Args:
        config: which one.
        world: the testbed's seeds; of no concern to other benchmarks.

    Raises:
        MissingFileError: a file that is not there.
        ConfigError: a line that is no prompt, or no prompt left.
    """
    match config:
        case TestbedBenchmarkConfig():
            from safethink.benchmarks import testbed

            return Benchmark(config.name, testbed.load(config, world))
        case JsonlBenchmarkConfig():
            from safethink.benchmarks import jsonl

            return Benchmark(config.name, jsonl.load(config))
