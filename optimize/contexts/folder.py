"""Contexts on disk: collected once, shared by searches, studies and ablations, and by processes at the same time.

A folder holds `search.json`, `validation.json`, `settings.json` and `manifest.json`. The manifest says which models and
prompts they come from, and hashes both; it is written last, so a folder that has one is complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from optimize.config import ContextsConfig
from optimize.contexts.collection import collect_search, collect_validation
from optimize.contexts.context import ContextSet
from optimize.contexts.splits import Split
from safethink import benchmarks as published
from safethink.config import BenchmarkConfig, JsonlBenchmarkConfig, WorldConfig
from safethink.config.mismatch import other_settings, refuse_other
from safethink.errors import ConfigError, MissingFileError, RecordError
from safethink.files import json_hash, write_text
from safethink.frozen import Frozen
from safethink.guarded import SafeThink
from safethink.prefix import Identity
from safethink.prompts import Prompt


class Overlap(Frozen):
    """Overlap of a benchmark with the prompts learned on.

    A prefix that was tuned on the prompts of a benchmark must not be reported on it.
    """

    shared: int
    """Prompts of the benchmark that were used."""
    total: int
    """Prompts of the benchmark."""


def prompt_hash(prompt: Prompt) -> str:
    """SHA-256 of the last user turn, letter case and blanks aside: manifests name prompts by it, as they always did."""
    return hashlib.sha256(" ".join(prompt.text.casefold().split()).encode()).hexdigest()


def overlaps(prompts: Iterable[Prompt], benchmarks: Mapping[str, str | BenchmarkConfig]) -> dict[str, Overlap]:
    """Overlap of each benchmark with `prompts`, by name.

    Args:
        prompts: what was learned on.
        benchmarks: their sections, or JSONL files, by name.

    Raises:
        MissingFileError: a file is not there.
        ConfigError: a row is no prompt; it is named.
    """
    used = {prompt.words_hash for prompt in prompts}
    return {name: _overlap(used, each) for name, each in benchmarks.items()}


def _overlap(used: set[str], benchmark: str | BenchmarkConfig) -> Overlap:
    section = JsonlBenchmarkConfig(path=benchmark, prompts="jailbreak") if isinstance(benchmark, str) else benchmark
    hashes = {prompt.words_hash for prompt in published.load(section, WorldConfig()).prompts}
    return Overlap(shared=len(hashes & used), total=len(hashes))


MANIFEST, SEARCH, VALIDATION, SETTINGS = "manifest.json", "search.json", "validation.json", "settings.json"
OTHERS = "another model, monitor or set of prompts"


class Source(Frozen):
    """Provenance of contexts, beside the prompts: whoever uses them must use the same."""

    reasoner: Identity
    """Reasoner of the traces and of the token ids."""
    monitor: Identity
    """Monitor that fired."""
    threshold: float
    """Below what it fired."""
    seed: int
    """Of the rollouts."""


class Manifest(Frozen):
    """Contents of the folder, and their provenance."""

    source: Source
    """The models."""
    search_sha256: str
    """Hash of the contexts to search on, targets included."""
    validation_sha256: str
    """Hash of the contexts to choose on."""
    prompts: dict[str, tuple[str, ...]]
    """Hash of every prompt that was rolled out, by split, so that an overlap can be found out later."""
    overlaps: dict[str, Overlap]
    """Overlap of each named benchmark with their prompts."""


def collect(
    folder: Path, guarded: SafeThink, data: tuple[Split, Split], config: ContextsConfig, source: Source
) -> Manifest:
    """Collect contexts into a folder; what an earlier start has finished stays.

    Args:
        folder: created where missing.
        guarded: the reasoner with its monitor.
        data: the prompts to search on and those to choose on.
        config: how many contexts, and which benchmarks the prompts are compared with.
        source: what the contexts depend on.

    Raises:
        ConfigError: the folder was begun with other models, prompts or settings; the first that differs is named.
        SafeThinkError: the monitor never fired.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, config)
    search, validation = data
    shared = overlaps([prompt for split in data for prompt in split.prompts], config.benchmarks)
    begun = source.model_dump_json()
    searched = _once(folder / SEARCH, begun, search, lambda: collect_search(guarded, search, config, source.threshold))
    chosen = _once(
        folder / VALIDATION,
        begun,
        validation,
        lambda: collect_validation(guarded, validation, config, source.threshold),
    )
    manifest = Manifest(
        source=source,
        search_sha256=searched.fingerprint,
        validation_sha256=chosen.fingerprint,
        prompts={split.name: tuple(sorted({prompt_hash(prompt) for prompt in split.prompts})) for split in data},
        overlaps=shared,
    )
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    return manifest


def load(folder: Path, source: Source, data: tuple[Split, Split]) -> tuple[Manifest, ContextSet, ContextSet]:
    """The contexts of a folder, to search on and to choose on, checked against their hashes and against who asks.

    Args:
        folder: written by `collect`.
        source: the models that they are to be used with.
        data: the prompts that they are to come from; as many of them as whoever collected asked for.

    Raises:
        MissingFileError: there is no manifest: no such folder, or one that was not finished.
        RecordError: a file is damaged or was edited.
        ConfigError: they were collected from another reasoner or monitor, or from other prompts.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise MissingFileError(
            f"no contexts in {folder}: it has no {MANIFEST}; `safethink-optimize contexts` makes one"
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecordError(f"{path}: {error.errors(include_url=False)[0]['msg']}") from error
    refuse_other(folder, _essence(manifest.source), _essence(source), OTHERS, "collect your own")
    _refuse_other_prompts(folder, manifest, data)
    sets = ContextSet.load(folder / SEARCH), ContextSet.load(folder / VALIDATION)
    for contexts, sha256, name in zip(
        sets, (manifest.search_sha256, manifest.validation_sha256), (SEARCH, VALIDATION), strict=True
    ):
        if contexts.fingerprint != sha256:
            raise RecordError(f"{folder / name} was edited: its content does not match the manifest")
    return manifest, *sets


def _refuse_other_prompts(folder: Path, manifest: Manifest, data: tuple[Split, Split]) -> None:
    """A split is cut to as many prompts as are asked for; but none may stand on the other side, which chooses."""
    asked = [{prompt_hash(prompt) for prompt in split.prompts} for split in data]
    held = [set(manifest.prompts.get(split.name, ())) for split in data]
    for split, here, there, other in zip(data, asked, held, reversed(held), strict=True):
        if not here & there:
            raise ConfigError(f"{folder}: these contexts were collected from other {split.name} prompts")
        if here & other:
            raise ConfigError(
                f"{folder}: {len(here & other)} {split.name} prompts stand in the other split of these contexts; "
                "collect them anew"
            )


def _claim(folder: Path, config: ContextsConfig) -> None:
    """Note how the contexts of a folder are collected, or find that they are collected so; benchmarks may be added."""
    path, settings = folder / SETTINGS, config.model_dump(mode="json", exclude={"path", "benchmarks"})
    if path.exists():
        refuse_other(
            path,
            json.loads(path.read_text(encoding="utf-8")),
            settings,
            "contexts of other settings",
            "give a fresh --out",
        )
    elif not (folder / SEARCH).exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")


def _essence(source: Source) -> dict[str, object]:
    """Settings that must agree: of a model its hash if it has one, else its name; folders may be called anything."""
    reasoner, monitor = (model.sha256 or model.name for model in (source.reasoner, source.monitor))
    return {"reasoner": reasoner, "monitor": monitor, "threshold": source.threshold}


def _once(path: Path, source: str, split: Split, gather: Callable[[], ContextSet]) -> ContextSet:
    """Contexts from an earlier start, or collected now."""
    begun_with = f"{split.fingerprint} {source}"
    if not path.exists():
        gather().replace(source=begun_with).save(path)
    contexts = ContextSet.load(path)
    if contexts.source != begun_with:
        there, here = (_origin(each) for each in (contexts.source, begun_with))
        raise ConfigError(other_settings(path, there, here, OTHERS, "give a fresh --out"))
    return contexts


def _origin(begun_with: str) -> dict[str, object]:
    """Keys of what `_once` writes down: the hash of the prompts, and the fields of their source."""
    prompts, _, source = begun_with.partition(" ")
    return {"prompts": prompts, **json.loads(source or "{}")}


def shared(root: Path, guarded: SafeThink, data: tuple[Split, Split], config: ContextsConfig, source: Source) -> Path:
    """The folder of these contexts under `root`, collected now where nobody has.

    Args:
        root: holds one folder per kind of contexts; others may be collecting there.
        guarded: the reasoner with its monitor.
        data: the prompts to search on and those to choose on.
        config: how many contexts.
        source: what they depend on beside the prompts.

    Raises:
        SafeThinkError: the monitor never fired.
    """
    asked = [source.model_dump(mode="json"), config.model_dump(mode="json"), *(split.fingerprint for split in data)]
    mine = root / json_hash(asked)[:12]
    mine.mkdir(parents=True, exist_ok=True)
    with FileLock(mine.with_suffix(".lock")):
        if not (mine / MANIFEST).exists():
            collect(mine, guarded, data, config, source)
    return mine
