"""Cells that differ in their seed alone, and which of them is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimize.ablation.grid import Cell
from optimize.ablation.outcome import CELL, CELLS, Result, finished
from optimize.selection.constraints import Constraints
from optimize.selection.trials import choose
from safethink.evaluation.statistics import Estimate


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
        return self.done[choose(worth, constraints)]


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
    found = ((cell.name, finished(out / CELLS / cell.name / CELL, cell.fingerprint)) for cell in cells)
    return {name: result for name, result in found if result is not None}


def _value(metrics: Mapping[str, Estimate], name: str) -> float:
    return metrics[name].value if name in metrics else 0.0
