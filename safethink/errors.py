"""Errors a user can act on. Each is also the built-in it would have been."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec


class SafeThinkError(Exception):
    """Something the user can put right; the command line prints it as one line and exits with status 2."""


class ConfigError(SafeThinkError, ValueError):
    """A wrong key, type or value in a configuration."""


class MissingFileError(SafeThinkError, FileNotFoundError):
    """A path that names nothing."""


class ArtifactError(SafeThinkError, ValueError):
    """A prefix artifact or a probe that is damaged, edited or does not fit the reasoner."""


class PromptError(SafeThinkError, ValueError):
    """A prompt that cannot be run: empty, or longer than the context window."""


class MonitorError(SafeThinkError, RuntimeError):
    """A monitor that raised or did not return a score in [-1, 1]; the row is named."""


class DefenseError(SafeThinkError, RuntimeError):
    """A defense of one's own that raised, asked for what it did not declare, or returned no verdict."""


class RecordError(SafeThinkError, OSError):
    """A record that could not be written or read."""


class SearchError(SafeThinkError, RuntimeError):
    """A search that comes to no prefix: there is nothing to learn from, or nothing survives."""


class HubError(SafeThinkError, ConnectionError):
    """A hub that cannot be reached, or that refuses what it was asked for."""


class CacheFullError(SafeThinkError, MemoryError):
    """Rows that do not fit into the key-value cache side by side."""


class ModelError(SafeThinkError, RuntimeError):
    """A model that cannot be read exactly in any way; its class is named."""


class LogitsError(SafeThinkError, ArithmeticError):
    """Next-token logits that are NaN or infinite, so that no token can be chosen; the row is named.

    Attributes:
        row: the key under which the engine knows the row; None where there is none.
    """

    def __init__(self, message: str, row: int | None = None) -> None:
        """Say which row it is, and where."""
        super().__init__(message)
        self.row = row


class ServerError(SafeThinkError, ConnectionError):
    """A model's server that cannot be reached, fails, or answers what cannot be used."""


def require(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed; none is imported.

    Raises:
        ConfigError: one is not; says how to install it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(f"this command needs {' and '.join(missing)}: pip install 'safethink[{extra}]'")


def not_found(path: str, error: BaseException, here: str = "folder", there: str = "repository") -> str:
    """Reason that a model or a data set could not be read, in one line.

    A name that is nowhere is said to be nowhere; of anything else the first line of `error` says it.

    Args:
        path: what was to be read: on this machine, or `OWNER/NAME` on the hub.
        error: of the library that tried.
        here: what it would be on this machine.
        there: what it would be on the hub.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import validate_repo_id

    lines = str(error).strip().splitlines()
    said = lines[0] if lines else type(error).__name__
    causes = tuple(_causes(error))
    if os.path.exists(path) or any(isinstance(cause, GatedRepoError) for cause in causes):
        return said
    try:
        validate_repo_id(path)
    except HFValidationError:
        return f"no such {here}"
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return f"no such {here}, and no such {there} on the hub, or no right to it (HF_TOKEN)"
    kept = (repo_folder_name(repo_id=path, repo_type=kind) for kind in ("model", "dataset"))
    if any(os.path.isdir(os.path.join(constants.HF_HUB_CACHE, name)) for name in kept):
        return said
    if any(isinstance(cause, ConnectionError | LocalEntryNotFoundError | OfflineModeIsEnabled) for cause in causes):
        why = "offline" if constants.HF_HUB_OFFLINE else "which cannot be reached"
        return f"no such {here}, and no such {there} on the hub ({why})"
    return said


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
