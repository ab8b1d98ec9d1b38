"""What another run over the same prompts has recorded is not generated again; and runs without guarded rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import EvalConfig
from safethink.errors import ConfigError
from safethink.evaluation import exact_asr, folder, records, runner
from safethink.evaluation.summary import Summary, summarise
from safethink.testbed.world import World
from tests.integration.test_evaluate import PHRASES, evaluate, few_rows, shipped
from tests.support import planted
from tests.support.timeless import timeless

pytestmark = pytest.mark.slow

ROWS = ("undefended", "guard_refuse", "safethink_learned")


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted engine needs no weights, so there is no card to ask for the world's seed."""
    monkeypatch.setattr(exact_asr, "make_world", lambda config: World.make(planted.SEED))


def config(*rows: str, **changes: object) -> EvalConfig:
    return few_rows(shipped(8, depth_curve=(), **changes), *rows)


def gather(config: EvalConfig, out: Path, shared: Path) -> Summary:
    return summarise(runner.gather(config, out, planted.reasoner(PHRASES), shared))


def test_shared_records_give_the_same_summary_and_are_not_made_again(tmp_path: Path) -> None:
    evaluate(config(*ROWS[:2], prefix="wait-think-safely"), tmp_path / "shared")
    whole = evaluate(config(*ROWS), tmp_path / "whole")
    assert timeless(gather(config(*ROWS), tmp_path / "part", tmp_path / "shared")) == timeless(whole)
    shared, part = (
        {record.key for record in records.read(tmp_path / name / folder.RECORDS)} for name in ("shared", "part")
    )
    assert not shared & part
    assert {key.row for key in part} == {"safethink_learned"}
    assert {"watch", "nothing", "undefended"} <= {key.row for key in shared}


@pytest.mark.parametrize("change", [{"recovery_samples": 1}, {"samples": 2}])
def test_records_made_with_other_settings_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    evaluate(config(*ROWS[:2], **change), tmp_path / "shared")
    ((key, value),) = change.items()
    with pytest.raises(ConfigError, match=f"{key} is {value} there and . here"):
        gather(config(*ROWS), tmp_path / "part", tmp_path / "shared")


def test_records_of_a_row_that_this_table_lacks_are_refused(tmp_path: Path) -> None:
    evaluate(config(*ROWS[:2]), tmp_path / "shared")
    with pytest.raises(ConfigError, match=r"rows\.\w+\.\S+ is .* there and 'absent' here"):
        gather(config("undefended", "safethink_learned"), tmp_path / "part", tmp_path / "shared")


def test_without_guarded_runs_there_is_recovery_and_forcing_and_a_report(tmp_path: Path) -> None:
    summary = evaluate(config(*ROWS, samples=0), tmp_path)
    cells = summary.rows["safethink_learned"]
    assert {name for name, cell in cells.items() if cell is not None} == {
        "recovery_rate",
        "lift",
        "recovery_guarded",
        "accuracy_forced",
        "over_refusal_forced",
    }
    assert all(cell is None for cell in summary.outcomes["undefended"]["jailbreak"].values())
    phases = {"watch", "recovery", "recovery_guarded", "forced"}
    assert {record.phase for record in records.read(tmp_path / folder.RECORDS)} == phases
    assert (tmp_path / folder.REPORT).exists()
