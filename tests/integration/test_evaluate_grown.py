"""A run whose table grows, and outputs that the monitor leaves alone: nothing is generated twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import EvalConfig, GuardRefuseConfig, RowConfig, SafeThinkConfig
from safethink.errors import ConfigError
from safethink.evaluation import exact_asr, folder, records, runner
from safethink.evaluation.jobs import Job
from safethink.evaluation.plan import plan
from safethink.evaluation.records import Key, Record
from safethink.testbed.world import World
from tests.integration.test_evaluate import ON_TRIAL, PHRASES, few_rows, shipped
from tests.support import planted
from tests.support.timeless import timeless, timeless_record

pytestmark = pytest.mark.slow

KEYWORDS = {"kind": "guard", "monitor": {"kind": "keyword", "phrases": ["no such words"], "found": -1.0, "absent": 1.0}}
"""A judge that calls nothing harmful."""


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted engine needs no weights, so there is no card to ask for the world's seed."""
    monkeypatch.setattr(exact_asr, "make_world", lambda config: World.make(planted.SEED))


def config(*names: str, **changes: object) -> EvalConfig:
    return few_rows(shipped(12, **({"depth_curve": ()} | changes)), *names)


def recorded(out: Path) -> dict[Key, Record]:
    return {record.key: timeless_record(record) for record in records.read(out / folder.RECORDS)}


def test_what_the_monitor_leaves_alone_is_what_generating_it_again_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "undefended", "always", "guard_refuse", "resample_only", "safethink_learned"
    whole = config(*names, depth_curve=(0, 1))
    once, again = planted.reasoner(PHRASES), planted.reasoner(PHRASES)
    summary = runner.evaluate(whole, tmp_path / "once", once)
    monkeypatch.setattr(Job, "undisturbed", lambda job, watched: None)
    assert timeless(runner.evaluate(whole, tmp_path / "again", again)) == timeless(summary)
    assert recorded(tmp_path / "once") == recorded(tmp_path / "again")
    assert isinstance(once.engine, planted.PlantedEngine)
    assert isinstance(again.engine, planted.PlantedEngine)
    assert once.engine.calls < again.engine.calls


def test_a_table_may_grow_by_rows_a_prefix_on_trial_and_judges_and_keeps_what_it_has(tmp_path: Path) -> None:
    last = RowConfig(name="other", defense=SafeThinkConfig(), prefix="text:Hmm, let me see")
    begun = config("undefended", "guard_refuse").replace(prefix="text:Wait, think safely")
    grown = config("undefended", "guard_refuse", "resample_only", "safethink_learned", second_judges=["refusal"])
    grown = grown.replace(rows=(last, *grown.rows))
    runner.evaluate(begun, tmp_path / "grown", planted.reasoner(PHRASES))
    before = (tmp_path / "grown" / folder.RECORDS).read_bytes()
    summary = runner.evaluate(grown, tmp_path / "grown", planted.reasoner(PHRASES))
    assert (tmp_path / "grown" / folder.RECORDS).read_bytes().startswith(before)
    assert summary.prefix.texts == (ON_TRIAL,)
    assert folder.read_config(tmp_path / "grown").rows == grown.rows
    at_once = runner.evaluate(grown, tmp_path / "at-once", planted.reasoner(PHRASES))
    assert timeless(summary) == timeless(at_once)
    # What was begun with fewer rows may not go on in it: its table would lose some.
    with pytest.raises(ConfigError, match=r"rows\.other\.name is 'other' there and 'absent' here; use another --out"):
        runner.evaluate(begun, tmp_path / "grown", planted.reasoner(PHRASES))


def test_a_judge_that_is_added_and_contradicts_a_drift_takes_its_injections_out(tmp_path: Path) -> None:
    begun = config("undefended", "safethink_learned", judge="refusal")
    first = runner.evaluate(begun, tmp_path, planted.reasoner(PHRASES))
    assert first.contexts.confirmed > 0
    grown = runner.evaluate(begun.replace(second_judges=[KEYWORDS]), tmp_path, planted.reasoner(PHRASES))
    assert grown.contexts.confirmed == 0
    assert grown.rows["safethink_learned"]["recovery_rate"] is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"rows": [{"name": "undefended", "defense": {"kind": "always"}}]},
            r"rows\.undefended\.defense\.kind is 'none'",
        ),
        ({"rows": []}, r"rows\.undefended\.name is 'undefended' there and 'absent' here"),
        ({"judge": KEYWORDS}, r"judge\.kind is 'absent' there and 'guard' here"),
        ({"second_judges": []}, r"second_judges\.refusal is 'refusal' there and 'absent' here"),
        (
            {"rows": [{"name": "on_trial", "defense": {"kind": "safethink", "threshold": 0.5}}]},
            r"threshold of the row on trial is 0\.0 there and 0\.5 here",
        ),
    ],
)
def test_what_a_table_has_may_not_change(changes: dict[str, list[object]], said: str, tmp_path: Path) -> None:
    begun = config("undefended", second_judges=["refusal"])
    runner.evaluate(begun, tmp_path, planted.reasoner(PHRASES))
    untouched = (tmp_path / folder.CONFIG).read_bytes()
    rows = [*changes.get("rows", []), RowConfig(name="further", defense=GuardRefuseConfig())]
    if "threshold" in said or "rows" not in changes:
        rows = [*begun.rows, *rows]
    with pytest.raises(ConfigError, match=said):
        runner.evaluate(begun.replace(**(changes | {"rows": rows})), tmp_path, planted.reasoner(PHRASES))
    assert (tmp_path / folder.CONFIG).read_bytes() == untouched


def test_the_points_of_a_depth_curve_stay_those_of_one_prefix(tmp_path: Path) -> None:
    begun = config("undefended", "safethink_learned", depth_curve=(0,))
    runner.evaluate(begun, tmp_path, planted.reasoner(PHRASES))
    with pytest.raises(ConfigError, match=r"prefix is 'text:.*' there and 'text:Wait, think safely' here"):
        runner.evaluate(begun.replace(prefix="text:Wait, think safely"), tmp_path, planted.reasoner(PHRASES))


def test_recovery_by_the_defense_itself_may_be_left_out(tmp_path: Path) -> None:
    cut = config("undefended", "resample_only", recovery_guarded=False)
    summary = runner.evaluate(cut, tmp_path, planted.reasoner(PHRASES))
    assert summary.rows["resample_only"]["recovery_guarded"] is None
    assert summary.rows["resample_only"]["recovery_rate"] is not None
    assert plan(cut).generations["recovery_guarded"] == 0
    assert "recovery_guarded" not in config("undefended").model_dump()
