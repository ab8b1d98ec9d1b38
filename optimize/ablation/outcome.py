"""Layout of an ablation's folder on disk, and the result of a cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from optimize.ablation.config import MeasureConfig
from optimize.ablation.grid import Cell, settings_hash
from optimize.selection.constraints import Constraints
from optimize.selection.trials import choose_finalist
from safethink.config import EvalConfig
from safethink.config.mismatch import other_settings
from safethink.errors import ConfigError, RecordError
from safethink.evaluation.statistics import Estimate, Observations
from safethink.files import json_hash
from safethink.frozen import Frozen

CELLS, CONTEXTS, REFERENCES = "cells", "contexts", "references"
"""Folders of an ablation."""
CELL, TEST, LOG = "cell.json", "test.json", "log.txt"
"""Files of a cell."""


class Observed(Frozen):
    """Observations of one quantity, as JSON holds them; see `Observations`."""

    numerators: tuple[float, ...]
    """One per observation."""
    denominators: tuple[float, ...]
    """Likewise."""
    units: tuple[str, ...]
    """Prompt of each."""
    clusters: tuple[dict[str, str], ...]
    """Groups of each, by factor."""

    @classmethod
    def of(cls, seen: Observations) -> Observed:
        """From observations."""
        return cls(
            numerators=tuple(seen.numerators.tolist()),
            denominators=tuple(seen.denominators.tolist()),
            units=seen.units,
            clusters=tuple(dict(each) for each in seen.clusters),
        )

    @property
    def observations(self) -> Observations:
        """The observations."""
        return Observations(np.array(self.numerators), np.array(self.denominators), self.units, self.clusters)


class Choice(Frozen):
    """Observations that the choice of a prefix rests on, by column: recovery, and the cost of forcing it in."""

    own: dict[str, Observed]
    """With the prefix."""
    nothing: dict[str, Observed]
    """In the same states with nothing injected."""


class Result(Frozen):
    """Result of a cell on one split."""

    fingerprint: str
    """Of all that it depends on."""
    settings: dict[str, Any] | None = None
    """All that it depends on; None in a result that is older than this key."""
    prefix: str
    """Built-in name, `text:` and a literal, or `artifact`: the folder of that name beside this file."""
    texts: tuple[str, ...]
    """Injected prefixes as text; none where the defense injects nothing."""
    metrics: dict[str, Estimate]
    """Estimates, by column."""
    learned: dict[str, Estimate] = Field(default_factory=dict[str, Estimate])
    """The search's own estimates for its prefix: on the states that chose it, by the judge that chose it."""
    choice: Choice | None = None
    """Observations of its choice, where nothing else is measured on validation."""
    tokens: int = 0
    """Tokens that the search forwarded, gradients counted twice."""
    seconds: float
    """Wall-clock time of the last start."""


def finished(path: Path, settings: Mapping[str, object]) -> Result | None:
    """Result of an earlier start, or None.

    Args:
        path: its file.
        settings: all that it depends on.

    Raises:
        ConfigError: it was made with another configuration; what differs is named.
        RecordError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        result = Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise RecordError(f"{path}: no result ({reason}); delete the cell to run it again") from error
    if result.fingerprint != settings_hash(settings):
        remedy = "give a fresh --out, or delete the cell"
        raise ConfigError(other_settings(path, result.settings, settings, "another configuration", remedy))
    return result


def settings_on_test(cell: Cell, sizes: MeasureConfig) -> dict[str, Any]:
    """All that a cell's numbers on `test` depend on."""
    return {"cell": cell.fingerprint, "test": sizes.model_dump(mode="json")}


def spent_tokens(log: Path) -> int:
    """Tokens that a search forwarded, over all its stages; each stage's lines count its own."""
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return sum({line.get("round"): int(line["tokens"]) for line in lines}.values())


def reference_folder(out: Path, reference: EvalConfig) -> Path:
    """Folder of the records that need no prefix."""
    return out / REFERENCES / json_hash(reference.model_dump(mode="json"))[:12]


@dataclass(frozen=True, slots=True)
class Group:
    """The cells of one method and place.

    Attributes:
        cells: of all seeds.
        results: of those that are finished.
    """

    cells: tuple[Cell, ...]
    results: dict[str, Result]

    @property
    def done(self) -> tuple[Cell, ...]:
        """The finished cells."""
        return tuple(cell for cell in self.cells if cell.name in self.results)

    @property
    def best(self) -> Cell:
        """The cell to report on: chosen among seeds as a search chooses among its finalists."""
        metrics = [self.results[cell.name].metrics for cell in self.done]
        constraints = [
            Constraints.of(each, cell.config.selection.max_forced_loss)
            for cell, each in zip(self.done, metrics, strict=True)
        ]
        # Where recovery was not measured, the lowest ASR is the best.
        recoveries = [each.get("recovery_rate") for each in metrics]
        worth = [
            recovery.value if recovery else -_value(each, "asr_answer")
            for recovery, each in zip(recoveries, metrics, strict=True)
        ]
        return self.done[choose_finalist(worth, constraints)]


def groups(cells: Sequence[Cell], out: Path) -> list[Group]:
    """Cells by method and place, with what is finished of them.

    Raises:
        ConfigError: a cell was made with another configuration.
    """
    by_place: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        by_place.setdefault((cell.method, cell.place.label), []).append(cell)
    return [Group(tuple(some), _results(some, out)) for some in by_place.values()]


def _results(cells: Sequence[Cell], out: Path) -> dict[str, Result]:
    found = ((cell.name, finished(out / CELLS / cell.name / CELL, cell.settings)) for cell in cells)
    return {name: result for name, result in found if result is not None}


def _value(metrics: Mapping[str, Estimate], name: str) -> float:
    return metrics[name].value if name in metrics else 0.0
