"""Contexts that several processes want at once: collected by the first, found there by the others."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from optimize.config import ContextsConfig
from optimize.contexts import folder
from optimize.contexts.folder import Source
from optimize.contexts.splits import Split
from safethink.files import json_hash
from safethink.guarded import SafeThink


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
        if not (mine / folder.MANIFEST).exists():
            folder.collect(mine, guarded, data, config, source)
    return mine
