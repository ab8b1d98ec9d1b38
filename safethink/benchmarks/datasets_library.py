# pyright: standard
"""Parquet files and datasets of the hub, read by the library `datasets`."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from safethink.config import PublishedSection
from safethink.errors import ConfigError, HubError, not_found, require

if TYPE_CHECKING:
    from datasets import Dataset


def of_parquet(path: Path) -> Iterable[Mapping[str, object]]:
    """The rows of a Parquet file, pictures left out.

    Raises:
        ConfigError: it is none.
    """
    require("benchmarks", "datasets")
    from datasets import Dataset
    from datasets.exceptions import DatasetsError

    # A cache of its own, in memory: what the file held before it was changed is never served again.
    with TemporaryDirectory() as cache, _without_bars():
        try:
            found = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        except (DatasetsError, ValueError, OSError) as error:
            raise ConfigError(f"{path}: no Parquet file: {_first_line(error.__cause__ or error)}") from error
    return _without_media(found)


def of_hub(config: PublishedSection) -> Iterable[Mapping[str, object]]:
    """The rows of a dataset of the hub, pictures left out.

    Raises:
        HubError: there is none, it is gated, or the hub cannot be reached.
        ConfigError: it has several splits and none was named.
    """
    require("benchmarks", "datasets")
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetsError

    at = f"{config.path}@{config.revision}" if config.revision else config.path
    with _without_bars():
        try:
            found = load_dataset(
                config.path, config.subset, split=config.split, revision=config.revision, **config.HUB_OPTIONS
            )
        except (DatasetsError, OSError, ValueError) as error:
            raise HubError(f"{at}: {not_found(config.path, error, 'file', 'data set')}") from error
    if isinstance(found, DatasetDict):
        if len(found) > 1:
            raise ConfigError(f"{at}: several splits; add `split:` with one of {', '.join(map(str, found))}")
        found = next(iter(found.values()))
    return _without_media(found)


def _without_media(dataset: Dataset) -> Iterable[Mapping[str, object]]:
    """Text and numbers alone: pictures would be decoded while rows are read."""
    from datasets import Audio, Image, Video

    media = [name for name, feature in dataset.features.items() if isinstance(feature, Audio | Image | Video)]
    return cast("Iterable[Mapping[str, object]]", dataset.remove_columns(media))


@contextmanager
def _without_bars() -> Generator[None, None, None]:
    """A command shows its own progress; the setting is for the whole process, and is put back."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
