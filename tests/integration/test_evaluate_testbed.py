"""The evaluation on the shipped models: the guard watches, the card fixes the world."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import EvalConfig, WorldConfig
from safethink.errors import ConfigError
from safethink.evaluation import predicted, records, runner
from safethink.yaml_config import load
from tests.source import ROOT


@pytest.fixture
def config() -> EvalConfig:
    shipped = load(EvalConfig, ROOT / "configs/eval/testbed.yaml")
    rows = tuple(row for row in shipped.rows if row.name in ("undefended", "guard_refuse", "safethink_random"))
    cut = tuple(each.model_copy(update={"n": 4}) for each in shipped.benchmarks)
    return shipped.model_copy(update={"rows": rows, "benchmarks": cut, "depth_curve": ()})


def test_the_shipped_models_are_evaluated(config: EvalConfig, tmp_path: Path) -> None:
    summary = runner.evaluate(config, tmp_path)
    assert summary.monitor_rates is not None
    assert summary.monitor_rates.overt > summary.monitor_rates.clean
    assert all(cells["asr_predicted"] is not None for cells in summary.rows.values())
    refused = [record for record in records.read(tmp_path / "records.jsonl") if record.refused]
    assert refused
    assert {(record.row, record.outcome, record.answer) for record in refused} == {
        ("guard_refuse", "refusal", "I cannot help with that.")
    }
    (drawn,) = summary.texts["safethink_random"]
    assert "\n" not in drawn


def test_another_prompts_seed_is_another_run(config: EvalConfig, tmp_path: Path) -> None:
    runner.folder.claim(tmp_path, config)
    (tmp_path / runner.folder.RECORDS).write_text("begun\n")
    fresh = config.model_copy(update={"world": WorldConfig(prompts_seed=7)})
    with pytest.raises(ConfigError, match=r"world\.prompts_seed is 0 there and 7 here"):
        runner.evaluate(fresh, tmp_path)


def test_the_world_must_be_the_one_the_weights_know(config: EvalConfig, tmp_path: Path) -> None:
    other = config.model_copy(update={"world": WorldConfig(seed=1)})
    with pytest.raises(ConfigError, match=r"world\.seed is 1, but 'testbed' was trained on 0"):
        runner.evaluate(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_reasoner_has_its_world(config: EvalConfig) -> None:
    null = config.run.model_copy(update={"reasoner": config.run.reasoner.model_copy(update={"path": "testbed:null"})})
    worlds = [predicted.make_world(each) for each in (config, config.model_copy(update={"run": null}))]
    assert [world.kind for world in worlds if world is not None] == ["planted", "null"]
