"""Base model of every section of a YAML file."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from safethink.config.yaml_config import validate

Some = TypeVar("Some", bound="Section")


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys, help from the docstrings under the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def replace(self: Some, **changes: Any) -> Some:
        """The same section with other values, validated as if they had been read from a file.

        Raises:
            ConfigError: an unknown key, or a value that does not fit; names it.
        """
        held = {name: getattr(self, name) for name in self.model_fields_set}
        return validate(type(self), held | changes, type(self).__name__)

    def model_copy(self: Some, *, update: None = None, deep: bool = False) -> Some:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A copy; other values go through `replace`, for pydantic's `update` validates nothing.

        Raises:
            TypeError: `update` was given; the type checker says so before.
        """
        if update is not None:
            raise TypeError("model_copy(update=...) validates nothing: use replace(...)")
        return super().model_copy(deep=deep)


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
