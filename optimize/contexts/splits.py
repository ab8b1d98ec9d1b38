"""Splits of prompts: a prefix is learned on `search` and chosen on `validation`. Never on `test`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from safethink.benchmarks import jsonl
from safethink.config import JsonlBenchmarkConfig, TestbedBenchmarkConfig, WorldConfig
from safethink.errors import ConfigError
from safethink.files import json_hash
from safethink.prompts import Prompt
from safethink.seeds import stable_seed

SplitName: TypeAlias = Literal["search", "validation"]

ATTACKS = ("jailbreak", "harmful")
VALIDATION_SHARE = 3
"""One group in so many goes to validation, where the prompts name no split."""


@dataclass(frozen=True, slots=True)
class Split:
    """Prompts of one split.

    Attributes:
        name: of the split.
        attacks: prompts on which the monitor may fire.
        harmless: harmless and borderline prompts, which a prefix must not hurt.
    """

    name: SplitName
    attacks: tuple[Prompt, ...]
    harmless: tuple[Prompt, ...]

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All of them, attacks first."""
        return self.attacks + self.harmless

    @property
    def fingerprint(self) -> str:
        """Hash of the prompts."""
        return json_hash([prompt.model_dump(mode="json") for prompt in self.prompts])

    def first(self, num_attacks: int, num_harmless: int) -> Split:
        """At most so many of each."""
        return Split(self.name, self.attacks[:num_attacks], self.harmless[:num_harmless])


def of_testbed(name: SplitName, num_attacks: int, num_harmless: int, world: WorldConfig) -> Split:
    """Jailbreaks, and harmless tasks alternating with borderline prompts, of the testbed."""
    from safethink.benchmarks import testbed

    def load(kind: Literal["jailbreak", "harmless", "borderline"], n: int) -> tuple[Prompt, ...]:
        return testbed.load(TestbedBenchmarkConfig(prompts=kind, split=name, n=n), world) if n else ()

    half = (num_harmless + 1) // 2
    pairs = zip(load("harmless", half), load("borderline", half), strict=True)
    return Split(
        name, load("jailbreak", num_attacks), tuple(prompt for pair in pairs for prompt in pair)[:num_harmless]
    )


def of_file(path: Path) -> tuple[Split, Split]:
    """Search and validation prompts of a JSONL file: by its `split` where lines name one, else by group.

    Lines of the split `test` are left alone, always.

    A prompt without a `label` counts as an attack.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: a line that is no prompt, or one of the two splits is empty.
    """
    everything = jsonl.load(JsonlBenchmarkConfig(path=str(path), prompts="jailbreak"))
    search, validation = _named(path, "search"), _named(path, "validation")
    if not search and not validation:
        held_out = {prompt.id for prompt in _named(path, "test")}
        return of_prompts([prompt for prompt in everything if prompt.id not in held_out])
    for name, prompts in (("search", search), ("validation", validation)):
        if not prompts:
            raise ConfigError(f"{path}: no prompts of the split {name!r}")
    return _split("search", search), _split("validation", validation)


def of_prompts(prompts: Sequence[Prompt]) -> tuple[Split, Split]:
    """Search and validation prompts, split by group: prompts that share one never stand on both sides.

    Raises:
        ConfigError: one side has no attack prompts.
    """
    sides: dict[str, SplitName] = {}
    for some in (filter(_attacks, prompts), (prompt for prompt in prompts if not _attacks(prompt))):
        groups = sorted({_group(prompt) for prompt in some} - sides.keys(), key=lambda name: stable_seed("split", name))
        sides |= {name: "search" if place % VALIDATION_SHARE else "validation" for place, name in enumerate(groups)}

    def side(name: SplitName) -> Split:
        return _split(name, [prompt for prompt in prompts if sides[_group(prompt)] == name])

    splits = side("search"), side("validation")
    if prompts and not any(split.attacks for split in splits):
        raise ConfigError(
            f"all {len(prompts)} prompts are harmless or borderline; learning needs attacks, on which the monitor "
            "fires: prompts labelled jailbreak or harmful, or without a label"
        )
    if not all(split.attacks for split in splits):
        raise ConfigError(f"{len(prompts)} prompts are too few to search on some and to choose on others")
    return splits


def _named(path: Path, split: Literal["search", "validation", "test"]) -> tuple[Prompt, ...]:
    try:
        return jsonl.load(JsonlBenchmarkConfig(path=str(path), prompts="jailbreak", split=split))
    except ConfigError:
        # The whole file was read before: all that can be wrong here is that no line names this split.
        return ()


def _split(name: SplitName, prompts: Sequence[Prompt]) -> Split:
    attacks = tuple(prompt for prompt in prompts if _attacks(prompt))
    return Split(name, attacks, tuple(prompt for prompt in prompts if not _attacks(prompt)))


def _group(prompt: Prompt) -> str:
    return prompt.clusters.get("group", prompt.id)


def _attacks(prompt: Prompt) -> bool:
    return prompt.kind is None or prompt.kind in ATTACKS
