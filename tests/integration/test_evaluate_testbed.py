"""The evaluation on the shipped models: the guard watches, the card fixes the world."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import EvalConfig, NoneConfig, RowConfig, SafeThinkConfig, WorldConfig
from safethink.config.yaml_config import load
from safethink.errors import ConfigError
from safethink.evaluation import exact_asr, records, runner
from safethink.models import loading
from tests.support.source import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def config() -> EvalConfig:
    shipped = load(EvalConfig, ROOT / "configs/eval/testbed.yaml")
    rows = tuple(row for row in shipped.rows if row.name in ("undefended", "guard_refuse", "safethink_random"))
    cut = tuple(each.replace(n=4) for each in shipped.benchmarks)
    return shipped.replace(rows=rows, benchmarks=cut, depth_curve=())


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
    thought = loading.complete(config.run).thought
    settled = config.replace(run=config.run.replace(thought=thought))
    runner.folder.claim(tmp_path, settled)
    (tmp_path / runner.folder.RECORDS).write_text("begun\n")
    fresh = config.replace(world=WorldConfig(prompts_seed=7))
    with pytest.raises(ConfigError, match=r"world\.prompts_seed is 0 there and 7 here"):
        runner.evaluate(fresh, tmp_path)


def test_the_world_must_be_the_one_the_weights_know(config: EvalConfig, tmp_path: Path) -> None:
    other = config.replace(world=WorldConfig(seed=1))
    with pytest.raises(ConfigError, match=r"world\.seed is 1, but 'testbed' was trained on 0"):
        runner.evaluate(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_reasoner_has_its_world(config: EvalConfig) -> None:
    null = config.run.replace(reasoner=config.run.reasoner.replace(path="testbed:null"))
    worlds = [exact_asr.make_world(each) for each in (config, config.replace(run=null))]
    assert [world.kind for world in worlds if world is not None] == ["planted", "null"]


def test_where_steps_are_counted_in_tokens_no_process_is_known(config: EvalConfig) -> None:
    thought = config.run.thought.replace(step_tokens=8)
    counted = config.replace(run=config.run.replace(thought=thought))
    assert exact_asr.make_world(counted) is None


def test_rollbacks_and_watched_answers_are_recorded(config: EvalConfig, tmp_path: Path) -> None:
    steering = {"max_resamples": 1, "max_steered_steps": 9}
    rows = (
        RowConfig(name="undefended", defense=NoneConfig()),
        RowConfig(name="rollback", defense=SafeThinkConfig(fallback="rollback", **steering)),
        RowConfig(name="watched", defense=SafeThinkConfig(fallback="refuse", monitor_answer=True, **steering)),
    )
    cut = tuple(each.replace(n=12) for each in config.benchmarks)
    off = {"depth_curve": (), "recovery_samples": 0, "forced_samples": 0}
    summary = runner.evaluate(config.replace(**({"rows": rows, "benchmarks": cut} | off)), tmp_path)
    for name in ("rollback", "watched"):
        cells = summary.rows[name]
        assert cells["asr_predicted"] is None
        assert all(cells[column] is not None for column in ("monitor_tokens", "seconds", "extra_tokens"))
    assert summary.rows["undefended"]["monitor_tokens"] is None
    assert summary.rows["undefended"]["asr_predicted"] is not None
    recorded = list(records.read(tmp_path / "records.jsonl"))
    by_row = {row.name: [each for each in recorded if each.row == row.name] for row in rows}
    backed = [each for each in by_row["rollback"] if any(note.dropped_steps for note in each.interventions)]
    assert backed
    for each in backed:
        assert "".join(span.text for span in each.spans if not span.forced) == each.trace
    assert all(each.answer_scores for each in by_row["watched"] if each.closed and not each.refused)
    assert not any(each.answer_scores for each in by_row["rollback"])
    # What the guard still minds at the end of a watched answer is refused.
    assert all(each.answer_scores[-1] >= 0 for each in by_row["watched"] if each.answer_scores and not each.refused)
    for each in recorded:
        assert each.monitor_calls is not None
        tries = sum(note.resamples for note in each.interventions)
        assert each.monitor_calls == tries + len(each.step_scores) + len(each.answer_scores)
