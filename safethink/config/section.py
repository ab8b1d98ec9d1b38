"""Base model of every section of a YAML file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: immutable, no unknown keys, help from the docstrings under the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MonitorSection(Section):
    """Base of every monitor's section."""

    @property
    def title(self) -> str:
        """Name of the monitor in artifacts and reports."""
        return str(getattr(self, "kind", type(self).__name__))


class EntryPointSection(Section):
    """What a plug-in of another package is found by."""

    kind: Literal["entry_point"] = "entry_point"
    name: str
    """The entry point's name."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for what the entry point names."""
