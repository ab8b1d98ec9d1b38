"""What the commit before the rooms wrote is still read, resumed, and made again number for number."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from optimize.cli import PROGRAM
from optimize.config import SearchConfig
from optimize.monitors.config import TrainMonitorConfig
from safethink import SafeThink, prefix
from safethink.config import EvalConfig
from safethink.config.yaml_config import load
from safethink.evaluation import folder, records, runner
from safethink.evaluation.summary import Summary
from tests.support.source import ROOT
from tests.support.timeless import SECONDS, timeless

BEFORE: Final = ROOT / "tests/data/before_rooms"
RUN: Final = BEFORE / "run"


def approximate(value: Any) -> Any:
    """A JSON value that another equals when its numbers are within 1e-5."""
    match value:
        case dict():
            return {key: approximate(each) for key, each in value.items()}
        case list() | tuple():
            return [approximate(each) for each in value]
        case float():
            return pytest.approx(value, abs=1e-5)
        case _:
            return value


def contents(run: Path) -> dict[records.Key, dict[str, Any]]:
    """The records of a run by their keys, without their seconds."""
    kept = records.read(run / folder.RECORDS)
    return {record.key: record.model_dump(mode="json", exclude=SECONDS) for record in kept}


@pytest.mark.parametrize("name", ["artifact", "soft_artifact"])
def test_an_artifact_loads_and_binds(name: str) -> None:
    guarded = SafeThink.from_pretrained("testbed", monitor="testbed", prefix=str(BEFORE / name))
    artifact = guarded.prefix
    assert not artifact.transferred
    assert (artifact.rows is not None) == (name == "soft_artifact")
    assert artifact.prefixes
    assert all(each.token_ids for each in artifact.prefixes)


def told_alike(cells: dict[str, Any]) -> dict[str, Any]:
    """Columns that were there and mean what they meant: recovery and forcing left the prefix in, whatever the defense
    did."""
    other = ("recovery", "lift", "empty_resamples", "invalid_attacks")
    return {name: cell for name, cell in cells.items() if not name.startswith(other) and not name.endswith("_forced")}


@pytest.mark.slow
def test_a_finished_run_keeps_its_records_and_is_measured_as_its_defense_drops_the_prefix(tmp_path: Path) -> None:
    run = shutil.copytree(RUN, tmp_path / "run")
    summary = runner.evaluate(load(EvalConfig, run / folder.CONFIG), run)
    assert (run / folder.RECORDS).read_bytes().startswith((RUN / folder.RECORDS).read_bytes())
    added = {key.phase for key in contents(run).keys() - contents(RUN).keys()}
    assert added <= {"recovery_dropped", "recovery_guarded", "forced_dropped"}
    before = Summary.model_validate_json((RUN / folder.SUMMARY).read_text(encoding="utf-8"))
    after, then = (timeless(each)["rows"] for each in (summary, before))
    for row, cells in then.items():
        assert told_alike(after[row]) == approximate(told_alike(cells))


@pytest.mark.slow
def test_a_run_made_anew_has_the_same_records(tmp_path: Path) -> None:
    runner.evaluate(load(EvalConfig, RUN / folder.CONFIG), tmp_path)
    anew, then = contents(tmp_path), contents(RUN)
    same = {key: record for key, record in then.items() if key in anew}
    assert {key: anew[key] for key in same} == approximate(same)
    # The run's defense drops the prefix: its injections are made that way now.
    assert {key.phase for key in then.keys() - same.keys()} <= {"recovery", "forced"}


@pytest.mark.slow
def test_a_search_goes_on_from_the_contexts(tmp_path: Path) -> None:
    contexts = shutil.copytree(BEFORE / "contexts", tmp_path / "contexts")
    small = ("--search.steps=1", "--search.candidates=2", "--selection.finalists=1", "--selection.spread=0")
    smaller = ("--selection.contexts=2", "--selection.samples=1", "--selection.forced_prompts=0")
    config, out = BEFORE / "configs/search.yaml", tmp_path / "search"
    given = ("search", str(config), "--out", str(out), f"--contexts.path={contexts}")
    assert PROGRAM.main([*given, *small, *smaller]) == 0
    assert prefix.load(out / "artifact").prefixes
    for each in BEFORE.joinpath("contexts").iterdir():
        assert (contexts / each.name).read_bytes() == each.read_bytes()


def test_resolved_configurations_load() -> None:
    assert load(SearchConfig, BEFORE / "configs/search.yaml").search.kind == "random"
    assert load(TrainMonitorConfig, BEFORE / "configs/monitor.yaml").monitor.kind == "probe"
