"""What two runs share: everything but how long they took."""

from __future__ import annotations

from typing import Any, Final

from safethink.evaluation.records import Record
from safethink.evaluation.summary import Summary

SECONDS: Final = {"engine_seconds", "monitor_seconds"}
"""Fields of a record that no two runs share."""


def timeless(summary: Summary) -> dict[str, Any]:
    """All of a summary but its seconds."""
    content = summary.model_dump(mode="json")
    for cells in (*content["rows"].values(), *content["comparisons"].values()):
        del cells["seconds"]
    return content


def timeless_record(record: Record) -> Record:
    """A record without its seconds."""
    return record.replace(**dict.fromkeys(SECONDS))
