"""What every section of a YAML file shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What every section shares: immutable, no unknown keys, help from the docstrings under the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class MonitorSection(Section):
    """What every monitor's section shares."""

    @property
    def title(self) -> str:
        """What artifacts and reports call the monitor."""
        return str(getattr(self, "kind", type(self).__name__))
