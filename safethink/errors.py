"""Errors a user can act on. Each is also the built-in it would have been."""

from __future__ import annotations

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
