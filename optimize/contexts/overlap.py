"""Which prompts a prefix was learned on also stand in a published benchmark: counted by hash, and reported.

A prefix that was tuned on the prompts of a benchmark must not be reported on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from safethink.benchmarks import jsonl
from safethink.config import JsonlBenchmarkConfig
from safethink.prompts import Prompt


class Overlap(BaseModel):
    """How much of a benchmark was learned on."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shared: int
    """Prompts of the benchmark that were used."""
    total: int
    """Prompts of the benchmark."""


def prompt_hash(prompt: Prompt) -> str:
    """SHA-256 of the last user turn, letter case and blanks aside: the same prompt in another file has it too."""
    return hashlib.sha256(" ".join(prompt.text.casefold().split()).encode()).hexdigest()


def overlaps(prompts: Iterable[Prompt], benchmarks: Mapping[str, str]) -> dict[str, Overlap]:
    """How many prompts of each benchmark are among `prompts`.

    Args:
        prompts: what was learned on.
        benchmarks: JSONL files by the names of the benchmarks they hold.

    Raises:
        MissingFileError: a file is not there.
        ConfigError: a line is no prompt; it is named.
    """
    used = {prompt_hash(prompt) for prompt in prompts}
    return {name: _overlap(used, Path(path)) for name, path in benchmarks.items()}


def _overlap(used: set[str], path: Path) -> Overlap:
    prompts = jsonl.load(JsonlBenchmarkConfig(path=str(path), prompts="jailbreak"))
    hashes = {prompt_hash(prompt) for prompt in prompts}
    return Overlap(shared=len(hashes & used), total=len(hashes))
