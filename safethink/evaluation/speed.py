# pyright: standard
"""Speed of a reasoner, which `--dry-run` estimates times by: known beforehand, or tried on few tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from safethink.config import NoneConfig, ReasonerConfig, RunConfig
from safethink.defenses.effects import Until
from safethink.engines import Engine, ExtendRequest
from safethink.errors import MissingFileError, SafeThinkError
from safethink.guarded import SafeThink
from safethink.models.adapters import WEIGHTS_FILES as ADAPTER_WEIGHTS
from safethink.models.adapters import Adapter
from safethink.models.shipped import located
from safethink.progress import track
from safethink.prompts import Prompt
from safethink.testbed.origin import is_testbed
from safethink.thinking.opening import open_prompt

_WEIGHTS: Final = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
PROBE_TOKENS: Final = 20
"""Tokens that a probe decodes of each row."""
ALONE_S: Final = 10.0
"""Seconds that one row may take for them where a full batch is still tried."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Throughput of a reasoner, as far as it is known.

    Attributes:
        decoded_per_s: tokens decoded per second; None where it is not known.
        read_per_s: tokens read per second, as a search scores them; likewise.
        source: where the numbers are from, or why there are none.
    """

    decoded_per_s: float | None
    read_per_s: float | None
    source: str

    def seconds(self, decoded: int, read: int = 0) -> int | None:
        """The time of decoding and reading so many tokens; None where it is not known."""
        if self.decoded_per_s is None or (read and self.read_per_s is None):
            return None
        return round(decoded / self.decoded_per_s + (read / self.read_per_s if read and self.read_per_s else 0))


TESTBED: Final = Speed(4000.0, 40_000.0, "the testbed's speed on two CPU cores, its guard included")


def speed(run: RunConfig, probe: bool, testbed: Speed = TESTBED) -> Speed:
    """The speed of a run's reasoner.

    Args:
        run: which reasoner, and how many rows of it at once.
        probe: whether it is loaded and tried, where its speed is not known.
        testbed: the speed of the testbed's reasoners.
    """
    if is_testbed(run.reasoner.path) and run.reasoner.server is None:
        return testbed
    if not probe:
        return Speed(None, None, "not known, and not tried")
    if run.reasoner.server is None and (missing := absent(run.reasoner)) is not None:
        return Speed(None, None, f"not known: the weights of {missing} are not on this machine")
    # What else a run says makes no difference, and the cells of a grid ask for the same again and again.
    kept = {name: getattr(run, name) for name in ("reasoner", "thought", "sampling", "batch_size")}
    return _tried(RunConfig(defense=NoneConfig(), **kept).model_dump_json())


def absent(reasoner: ReasonerConfig) -> str | None:
    """The model whose weights would be downloaded, an adapter's base included; None where loading says what lacks."""
    weights = (reasoner.gguf_file,) if reasoner.gguf_file is not None else _WEIGHTS
    try:
        folder = _folder(located(reasoner.path), (*weights, *ADAPTER_WEIGHTS), reasoner.revision)
        adapter = None if folder is None else Adapter.at(folder)
        if adapter is None:
            return reasoner.path if folder is None else None
        base, revision = adapter.located(reasoner.base)
        return base if _folder(located(base), weights, revision) is None else None
    except (MissingFileError, HFValidationError):
        return None


def _folder(path: str, names: Sequence[str], revision: str | None) -> str | None:
    """The folder on this machine, the hub's cache included, that is `path` or has one of the files."""
    if os.path.isdir(path):
        return path
    cached = (try_to_load_from_cache(path, name, revision=revision) for name in names)
    return next((str(Path(file).parent) for file in cached if isinstance(file, str)), None)


@lru_cache(maxsize=8)
def _tried(run_json: str) -> Speed:
    run = RunConfig.model_validate_json(run_json)
    try:
        with track(f"trying {PROBE_TOKENS} tokens of {run.reasoner.path}"):
            return measured(SafeThink.from_config(run))
    except SafeThinkError as error:
        return Speed(None, None, f"not known: {error}")


class _Timed(NamedTuple):
    """Tokens that some rows read and decoded, and the seconds of either."""

    read: int
    reading_s: float
    decoded: int
    decoding_s: float


def measured(guarded: SafeThink) -> Speed:
    """The speed of a reasoner that is loaded: of one row; and of a full batch, where that does not take long."""
    prompts = [Prompt.from_text(f"Add {row} and 4.") for row in range(guarded.batch_size)]
    rows = [open_prompt(guarded.thought, prompt) for prompt in prompts]
    _timed(guarded.engine, rows[:1], 2)
    timed, num_rows = _timed(guarded.engine, rows[:1], PROBE_TOKENS), 1
    if timed.reading_s + timed.decoding_s < ALONE_S and len(rows) > 1:
        timed, num_rows = _timed(guarded.engine, rows, PROBE_TOKENS), len(rows)
    several = "1 row" if num_rows == 1 else f"{num_rows} rows"
    return Speed(
        timed.decoded / timed.decoding_s,
        timed.read / timed.reading_s,
        f"{PROBE_TOKENS} tokens of {several} tried on this machine; a monitor's time comes on top",
    )


def _timed(engine: Engine, rows: Sequence[tuple[int, ...]], num_tokens: int) -> _Timed:
    """Read rows up to their first new token, and decode some more."""
    started = time.perf_counter()
    begun = engine.extend([_request(row, ids, 1) for row, ids in enumerate(rows)])
    read = time.perf_counter()
    grown = [ids + extension.tokens.ids for ids, extension in zip(rows, begun, strict=True)]
    ended = engine.extend([_request(row, ids, num_tokens - 1) for row, ids in enumerate(grown)])
    stopped = time.perf_counter()
    for row in range(len(rows)):
        engine.release(row)
    return _Timed(sum(map(len, rows)), read - started, sum(len(each.tokens) for each in ended), stopped - read)


def _request(row: int, ids: tuple[int, ...], max_new_tokens: int) -> ExtendRequest:
    return ExtendRequest(row, ids, len(ids), Until.ANSWER, max_new_tokens, seed=row)
