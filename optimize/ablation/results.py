"""The numbers of an ablation: every cell, and the cells of all seeds together. Computed from records alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from optimize.ablation import measure
from optimize.ablation.config import AblationConfig
from optimize.ablation.grid import Cell
from optimize.ablation.measure import Seen
from optimize.ablation.outcome import (
    CELLS,
    TEST,
    Choice,
    Group,
    Result,
    finished,
    groups,
    reference_folder,
    settings_on_test,
)
from safethink import benchmarks, defenses
from safethink.benchmarks import Benchmark
from safethink.config import EvalConfig
from safethink.evaluation import folder, numerics, records
from safethink.evaluation.jobs import NOTHING
from safethink.evaluation.metrics import Ledger
from safethink.evaluation.records import Key, Record
from safethink.evaluation.statistics import Estimate
from safethink.frozen import Frozen

COMPARED: Final = ("recovery_rate", "asr_answer")
"""Columns in which methods are compared with the controls."""

Numbers = dict[str, Estimate]


class CellLine(Frozen):
    """One cell."""

    name: str
    """Of its folder too."""
    method: str
    """Name of the method."""
    place: dict[str, Any]
    """Its value on every axis."""
    seed: int
    """Of the search."""
    texts: tuple[str, ...]
    """Injected prefixes as text."""
    metrics: Numbers
    """On validation, by column."""
    learned: Numbers
    """The search's own estimates for its prefix."""
    tokens: int
    """Tokens that its search forwarded, gradients counted twice."""
    seconds: float
    """Wall-clock time."""


class Point(Frozen):
    """The cells of one method and place, all seeds together."""

    method: str
    """Name of the method."""
    place: dict[str, Any]
    """Its value on every axis."""
    label: str
    """The same in short."""
    seeds: tuple[int, ...]
    """Of the cells that are finished."""
    metrics: Numbers
    """On validation, over prompts and seeds."""
    against: dict[str, Numbers]
    """Paired differences to each control at the same place, over prompts and seeds."""
    reference: dict[str, Numbers]
    """References that need no prefix: nothing injected, undefended, and refusing as soon as the monitor fires."""
    best: str
    """The validation-best cell."""
    texts: tuple[str, ...]
    """Prefixes that the best cell injects, as text."""
    tokens: int
    """Tokens that its search forwarded, gradients counted twice."""
    learned: Numbers
    """Its search's own estimates for it."""
    test: Numbers
    """Estimates of the best cell on `test`, by column."""


class Ablation(Frozen):
    """Contents of `ablation.json`."""

    axes: tuple[str, ...]
    """Dotted keys; the first is that of the figures."""
    methods: tuple[str, ...]
    """Names, in the order of the configuration."""
    cells: tuple[CellLine, ...]
    """Those that are finished."""
    points: tuple[Point, ...]
    """Those with a finished cell."""
    num_cells: int
    """Cells of the whole grid."""
    failures: dict[str, str]
    """Error messages, by task."""


def assemble(config: AblationConfig, cells: Sequence[Cell], out: Path, failures: Mapping[str, str]) -> Ablation:
    """Put together what is finished.

    Args:
        config: the ablation.
        cells: its grid.
        out: its folder.
        failures: what went wrong.
    """
    found = [group for group in groups(cells, out) if group.results]
    archive = RecordArchive(out)
    seen = {(group.cells[0].method, group.cells[0].place.label): archive.observe(group) for group in found}
    return Ablation(
        axes=tuple(config.axes),
        methods=tuple(config.methods),
        cells=tuple(_line(cell, group.results[cell.name]) for group in found for cell in group.done),
        points=tuple(_point(config, group, seen, archive) for group in found),
        num_cells=len(cells),
        failures=dict(failures),
    )


@dataclass
class RecordArchive:
    """Reads the records of an ablation; those that cells share are read once.

    Attributes:
        out: folder of the ablation.
    """

    out: Path
    _references: dict[Path, dict[Key, Record]] = field(default_factory=dict[Path, dict[Key, Record]])
    _benchmarks: dict[str, tuple[Benchmark, ...]] = field(default_factory=dict[str, tuple[Benchmark, ...]])

    def observe(self, group: Group) -> dict[int, dict[str, Seen]]:
        """Observations on validation, by seed and column."""
        return {cell.seed: self._observe(cell, group.results[cell.name]) for cell in group.done}

    def _observe(self, cell: Cell, result: Result) -> dict[str, Seen]:
        if result.choice is not None:
            return measure.observe_choice(result.choice)
        return measure.observe(self._ledger(cell), measure.ON_TRIAL, defenses.drops_prefix(cell.config.run.defense))

    def reference(self, cell: Cell, result: Result) -> dict[str, Numbers]:
        """Estimates of the references, which need no prefix, on validation."""
        seed = cell.config.run.seed
        if (choice := result.choice) is not None:
            return {NOTHING: _estimates(measure.observe_choice(Choice(own=choice.nothing, nothing={})), seed)}
        ledger = self._ledger(cell, with_own=False)
        rows = (NOTHING, measure.UNDEFENDED, measure.GUARD_REFUSE)
        return {row: _estimates(measure.observe(ledger, row), seed) for row in rows}

    def _ledger(self, cell: Cell, with_own: bool = True) -> Ledger:
        assert cell.measure is not None, "a cell without a measurement has the numbers of its choice"
        reference = measure.reference(cell.config, cell.measure, "validation")
        path = reference_folder(self.out, reference) / folder.RECORDS
        if path not in self._references:
            self._references[path] = _read(path)
        home = self.out / CELLS / cell.name / "validation"
        if with_own:
            numerics.refuse_unlike(path.parent, home)
        own = _read(home / folder.RECORDS) if with_own else {}
        return Ledger(self._load(reference), self._references[path] | own)

    def _load(self, reference: EvalConfig) -> tuple[Benchmark, ...]:
        key = repr((reference.benchmarks, reference.world))
        if key not in self._benchmarks:
            self._benchmarks[key] = tuple(benchmarks.load(each, reference.world) for each in reference.benchmarks)
        return self._benchmarks[key]


def _line(cell: Cell, result: Result) -> CellLine:
    return CellLine(
        name=cell.name,
        method=cell.method,
        place=dict(cell.place.values),
        seed=cell.seed,
        texts=result.texts,
        metrics=result.metrics,
        learned=result.learned,
        tokens=result.tokens,
        seconds=result.seconds,
    )


def _point(
    config: AblationConfig,
    group: Group,
    seen: Mapping[tuple[str, str], dict[int, dict[str, Seen]]],
    archive: RecordArchive,
) -> Point:
    first, best = group.done[0], group.best
    label, seed = first.place.label, first.config.run.seed
    own = seen[first.method, label]
    metrics = _estimates(_pooled(own), seed) | _predicted([group.results[cell.name] for cell in group.done])
    on_test = None
    if config.test is not None:
        path = archive.out / CELLS / best.name / TEST
        on_test = finished(path, settings_on_test(best, config.test))
    return Point(
        method=first.method,
        place=dict(first.place.values),
        label=label,
        seeds=tuple(own),
        metrics=metrics,
        against={
            control: _estimates(_paired(own, seen[control, label]), seed)
            for control in config.controls
            if control != first.method and (control, label) in seen
        },
        reference=archive.reference(first, group.results[first.name]),
        best=best.name,
        texts=group.results[best.name].texts,
        tokens=group.results[best.name].tokens,
        learned=group.results[best.name].learned,
        test={} if on_test is None else on_test.metrics,
    )


def _pooled(by_seed: Mapping[int, Mapping[str, Seen]]) -> dict[str, Seen]:
    """The columns that all seeds have, over all seeds."""
    columns = set[str].intersection(*(set(own) for own in by_seed.values()))
    first = next(iter(by_seed.values()))
    return {name: measure.pool({seed: own[name] for seed, own in by_seed.items()}) for name in first if name in columns}


def _paired(own: Mapping[int, Mapping[str, Seen]], control: Mapping[int, Mapping[str, Seen]]) -> dict[str, Seen]:
    """A method against a control, seed by seed and prompt by prompt."""
    out: dict[str, Seen] = {}
    for name in COMPARED:
        both = [seed for seed in own if seed in control and name in own[seed] and name in control[seed]]
        pairs = {seed: Seen(own[seed][name].own, control[seed][name].own) for seed in both}
        if pairs:
            out[name] = measure.pool(pairs)
    return out


def _predicted(results: Sequence[Result]) -> Numbers:
    """The exact ASR, averaged over seeds."""
    exact = [result.metrics[measure.PREDICTED] for result in results if measure.PREDICTED in result.metrics]
    if not exact:
        return {}
    value = sum(each.value for each in exact) / len(exact)
    return {measure.PREDICTED: Estimate(value, value, value, exact[0].n, exact[0].clusters)}


def _estimates(seen: Mapping[str, Seen], seed: int) -> Numbers:
    estimates = {name: each.estimate(seed) for name, each in seen.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _read(path: Path) -> dict[Key, Record]:
    return {record.key: record for record in records.read(path)}
