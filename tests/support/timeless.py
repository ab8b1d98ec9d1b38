"""What two runs share: everything but how long they took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from safethink.evaluation.records import Record
from safethink.evaluation.summary import Summary

SECONDS: Final = {"engine_seconds", "monitor_seconds"}
"""Fields of a record that no two runs share."""

STEP_SECONDS: Final = {"seconds", "cpu_seconds"}
"""Keys of a line of a search's log that no two runs share."""


def timeless(summary: Summary) -> dict[str, Any]:
    """All of a summary but its seconds."""
    content = summary.model_dump(mode="json")
    for cells in (*content["rows"].values(), *content["comparisons"].values()):
        del cells["seconds"]
    return content


def timeless_record(record: Record) -> Record:
    """A record without its seconds."""
    return record.replace(**dict.fromkeys(SECONDS))


def timeless_log(log: Path) -> list[dict[str, Any]]:
    """The lines of a search's log without the seconds of its steps."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in STEP_SECONDS} for line in lines]
