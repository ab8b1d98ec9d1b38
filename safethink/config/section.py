"""Base model of every section of a YAML file."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from safethink.config.yaml_config import explain
from safethink.errors import ConfigError
from safethink.frozen import Frozen

Some = TypeVar("Some", bound="Section")


class Section(Frozen):
    """Base of every section: immutable, no unknown keys, help from the docstrings under the fields."""

    def replace(self: Some, **changes: Any) -> Some:
        """The same section with other values, validated as if they had been read from a file.

        Raises:
            ConfigError: an unknown key, or a value that does not fit; names it.
        """
        try:
            return super().replace(**changes)
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {explain(type(self), error)}") from error


class MonitorSection(Section):
    """Base of every monitor's section."""

    @property
    def title(self) -> str:
        """Name of the monitor in artifacts and reports."""
        return str(getattr(self, "kind", type(self).__name__))


class EntryPointSection(Section):
    """Reference to a plug-in of another package by its entry point."""

    kind: Literal["entry_point"] = "entry_point"
    name: str
    """The entry point's name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for what the entry point names."""
