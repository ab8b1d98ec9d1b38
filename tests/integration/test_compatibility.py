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


@pytest.mark.slow
def test_a_finished_run_has_nothing_left_to_do_and_keeps_its_summary(tmp_path: Path) -> None:
    run = shutil.copytree(RUN, tmp_path / "run")
    summary = runner.evaluate(load(EvalConfig, run / folder.CONFIG), run)
    assert (run / folder.RECORDS).read_bytes() == (RUN / folder.RECORDS).read_bytes()
    before = Summary.model_validate_json((RUN / folder.SUMMARY).read_text(encoding="utf-8"))
    assert timeless(summary) == approximate(timeless(before))


@pytest.mark.slow
def test_a_run_made_anew_has_the_same_records(tmp_path: Path) -> None:
    runner.evaluate(load(EvalConfig, RUN / folder.CONFIG), tmp_path)
    assert contents(tmp_path) == approximate(contents(RUN))


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
