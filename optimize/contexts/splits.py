"""Splits of prompts: a prefix is learned on `search` and chosen on `validation`. Never on `test`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from safethink.benchmarks import jsonl
from safethink.benchmarks.jsonl import NamedRow
from safethink.config import JsonlBenchmarkConfig, TestbedBenchmarkConfig, WorldConfig
from safethink.config.yaml_config import did_you_mean
from safethink.errors import ConfigError
from safethink.files import json_hash
from safethink.prompts import Prompt
from safethink.seeds import stable_seed

logger = logging.getLogger(__name__)

SplitName: TypeAlias = Literal["search", "validation"]

ATTACKS = ("jailbreak", "harmful")
NAMES = ("search", "validation", "test")
"""Splits that a line may name."""
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
    """Search and validation prompts of a JSONL file: by its `split` where lines name one, else by group and text.

    What lines of the split `test` ask is left alone, always, wherever else it stands and however it is spelt; and so is
    in `search` what those of `validation` ask. How many prompts are left out for it is said.

    A prompt without a `label` counts as an attack.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: a line that is no prompt, an unknown split, some lines with a split to learn on and others without,
            or one of the two splits is empty.
    """
    file = JsonlBenchmarkConfig(path=str(path), prompts="jailbreak")
    jsonl.load(file)  # Refuses an empty file, and an id that stands twice.
    rows = list(jsonl.read(file))
    _refuse_unclear(path, rows)
    named = {name: [row for row in rows if row.split == name] for name in NAMES}
    held_out = _words(named["test"])
    if not named["search"] and not named["validation"]:
        unnamed = [row for row in rows if row.split is None]
        return of_prompts([row.prompt for row in _unseen(path, unnamed, held_out)])
    for name in ("search", "validation"):
        if not named[name]:
            raise ConfigError(f"{path}: no prompts of the split {name!r}")
    validation = _unseen(path, named["validation"], held_out)
    search = _unseen(path, named["search"], held_out | _words(named["validation"]))
    for name, rest in (("search", search), ("validation", validation)):
        if not rest:
            raise ConfigError(f"{path}: everything that the split {name!r} asks is held out by other lines")
    return side("search", [row.prompt for row in search]), side("validation", [row.prompt for row in validation])


def refuse_shared(path: Path) -> None:
    """Check that no two splits of a JSONL file ask the same, where they are taken as they are written.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: two lines of different splits ask the same, or as `of_file` says of lines and their splits.
    """
    rows = list(jsonl.read(JsonlBenchmarkConfig(path=str(path), prompts="jailbreak")))
    _refuse_unclear(path, rows)
    first: dict[str, NamedRow] = {}
    for row in rows:
        before = first.setdefault(row.prompt.words_hash, row)
        if before.split != row.split:
            where = f"stands in {row.split!r}, not {before.split!r}"
            raise ConfigError(f"{path}:{row.line}: asks what line {before.line} asks, and {where}")


def of_prompts(prompts: Sequence[Prompt]) -> tuple[Split, Split]:
    """Search and validation prompts: those that share a group, or ask the same, never stand on both sides.

    Raises:
        ConfigError: one side has no attack prompts.
    """
    families = _families(prompts)
    sides: dict[str, SplitName] = {}
    for some in (filter(_attacks, prompts), (prompt for prompt in prompts if not _attacks(prompt))):
        fresh = sorted({families[_group(prompt)] for prompt in some} - sides.keys(), key=_lot)
        sides |= {name: "search" if place % VALIDATION_SHARE else "validation" for place, name in enumerate(fresh)}

    def one(name: SplitName) -> Split:
        return side(name, [prompt for prompt in prompts if sides[families[_group(prompt)]] == name])

    splits = one("search"), one("validation")
    if prompts and not any(split.attacks for split in splits):
        raise ConfigError(
            f"all {len(prompts)} prompts are harmless or borderline; learning needs attacks, on which the monitor "
            "fires: prompts labelled jailbreak or harmful, or without a label"
        )
    if not all(split.attacks for split in splits):
        raise ConfigError(f"{len(prompts)} prompts are too few to search on some and to choose on others")
    return splits


def _refuse_unclear(path: Path, rows: Sequence[NamedRow]) -> None:
    """Check that every line says where it belongs, or none does; those of `test` may be the only ones.

    Raises:
        ConfigError: a line names a split that is none of those known, or no split where others name one to learn on.
    """
    learned = next((row for row in rows if row.split in ("search", "validation")), None)
    for row in rows:
        if row.split is not None and row.split not in NAMES:
            known = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
            hint = did_you_mean(row.split, NAMES)
            raise ConfigError(f"{path}:{row.line}: the split {row.split!r} is none to learn by; it is {known}{hint}")
        if row.split is None and learned is not None:
            raise ConfigError(
                f"{path}:{row.line}: no split, and line {learned.line} names {learned.split!r}; give every line a "
                "split, or none but those of `test`"
            )


def _unseen(path: Path, rows: Sequence[NamedRow], held_out: set[str]) -> list[NamedRow]:
    """Rows that ask nothing that is held out; the others are counted aloud."""
    unseen = [row for row in rows if row.prompt.words_hash not in held_out]
    if len(unseen) < len(rows):
        first = next(row.line for row in rows if row.prompt.words_hash in held_out)
        what = f"split {rows[0].split!r}" if rows[0].split else "lines without a split"
        count = len(rows) - len(unseen)
        logger.warning("%s: %d of the %s ask what is held out, line %d first: left out", path, count, what, first)
    return unseen


def _words(rows: Sequence[NamedRow]) -> set[str]:
    return {row.prompt.words_hash for row in rows}


def _families(prompts: Sequence[Prompt]) -> dict[str, str]:
    """The group that stands for each one: the first by name of those that prompts which ask the same connect."""
    first: dict[str, str] = {_group(prompt): _group(prompt) for prompt in prompts}

    def root(group: str) -> str:
        while first[group] != group:
            group = first[group]
        return group

    asked: dict[str, str] = {}
    for prompt in prompts:
        one, other = sorted((root(_group(prompt)), root(asked.setdefault(prompt.words_hash, _group(prompt)))))
        first[other] = one
    return {group: root(group) for group in first}


def _lot(group: str) -> int:
    return stable_seed("split", group)


def side(name: SplitName, prompts: Sequence[Prompt]) -> Split:
    """A split of these prompts: attacks apart from the others."""
    attacks = tuple(prompt for prompt in prompts if _attacks(prompt))
    return Split(name, attacks, tuple(prompt for prompt in prompts if not _attacks(prompt)))


def _group(prompt: Prompt) -> str:
    return prompt.clusters.get("group", prompt.id)


def _attacks(prompt: Prompt) -> bool:
    return prompt.kind is None or prompt.kind in ATTACKS
