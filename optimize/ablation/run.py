"""Runs an ablation: what is not finished of its grid, then the winners on `test`, then the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from optimize.ablation import measure, report, results
from optimize.ablation.config import AblationConfig, MeasureConfig
from optimize.ablation.grid import Cell, expand
from optimize.ablation.outcome import CELL, CELLS, TEST, Group, finished, groups, reference_folder, settings_on_test
from optimize.ablation.results import Ablation
from optimize.ablation.tasks import CollectContexts, MeasureReference, ReportOnTest, RunCell
from optimize.config import SearchConfig
from optimize.pipeline.process_pool import Pool, Task
from safethink.config import yaml_config
from safethink.files import json_hash, write_text, writing

CONFIG, NUMBERS, REPORT = "config.yaml", "ablation.json", "report.html"
CONTEXTS_TASK: Final = "contexts"
REFERENCE_TASK: Final = "reference"


def ablate(config: AblationConfig, out: Path) -> Ablation:
    """Run an ablation, or take it up where it was interrupted; a finished cell is never run again.

    Writes `config.yaml`, a folder for every cell, `ablation.json` and `report.html`. A grid may grow between two runs.

    Args:
        config: the ablation.
        out: its folder.

    Returns:
        The numbers of all cells that are finished, and what went wrong with the others.

    Raises:
        ConfigError: a key or value of the grid does not fit, or a cell in `out` was made with another configuration.
        RecordError: something cannot be written.
    """
    cells = expand(config)
    unfinished = [cell for cell in cells if finished(out / CELLS / cell.name / CELL, cell.settings) is None]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_text(out / CONFIG, yaml_config.dump(config))
    with Pool(config.workers) as pool:
        failures = pool.run(cell_tasks(unfinished, out), "cells")
        if config.test is not None:
            failures |= pool.run(test_tasks(groups(cells, out), config.test, out), "winners on test")
    ablation = results.assemble(config, cells, out, failures)
    write_text(out / NUMBERS, ablation.model_dump_json(indent=2) + "\n")
    write_text(out / REPORT, report.render(config, ablation))
    return ablation


def cell_tasks(cells: Sequence[Cell], out: Path) -> list[Task]:
    """Tasks of these cells: first those that several of them share, then one for each."""
    shared: dict[str, Task] = {}
    own: list[Task] = []
    for cell in cells:
        after: list[str] = []
        if cell.needs_contexts:
            name = f"{CONTEXTS_TASK} {_contexts_key(cell.config)}"
            shared.setdefault(name, CollectContexts(name, cell.config, out))
            after.append(name)
        if cell.measure is not None:
            reference = _reference_task(cell.config, cell.measure, "validation", out)
            shared.setdefault(reference.name, reference)
            after.append(reference.name)
        after += [cell.shorter.name] if cell.shorter else []
        own.append(RunCell(cell, out, tuple(after)))
    return [*shared.values(), *own]


def test_tasks(found: Sequence[Group], sizes: MeasureConfig, out: Path) -> list[Task]:
    """Tasks that report the winners on `test`; where a seed is missing there is no winner yet."""
    shared: dict[str, Task] = {}
    own: list[Task] = []
    for group in found:
        if len(group.done) < len(group.cells):
            continue
        best = group.best
        if finished(out / CELLS / best.name / TEST, settings_on_test(best, sizes)) is not None:
            continue
        reference = _reference_task(best.config, sizes, "test", out)
        shared.setdefault(reference.name, reference)
        own.append(ReportOnTest(best, sizes, group.results[best.name].prefix, out, (reference.name,)))
    return [*shared.values(), *own]


def _reference_task(
    config: SearchConfig, sizes: MeasureConfig, split: measure.SplitName, out: Path
) -> MeasureReference:
    reference = measure.reference(config, sizes, split)
    return MeasureReference(f"{REFERENCE_TASK} {reference_folder(out, reference).name}", config, reference, out)


def _contexts_key(config: SearchConfig) -> str:
    """Tells contexts apart before a model is loaded; those that turn out to be the same are collected once."""
    run = config.run.model_dump(mode="json", exclude={"defense", "prefix", "batch_size"})
    threshold = measure.threshold_of(config)
    asked = [run, threshold, config.world.model_dump(), config.prompts, config.contexts.model_dump(mode="json")]
    asked += [] if config.prompt_sets is None else [config.prompt_sets.model_dump(mode="json")]
    return json_hash([*asked, config.selection.forced_prompts])[:12]
