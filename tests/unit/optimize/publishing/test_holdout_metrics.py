"""What `test` showed goes into the artifact that was on trial, and into no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from optimize.publishing import holdout_metrics
from safethink import prefix
from safethink.benchmarks.overlaps import Overlaps
from safethink.config import AdvBenchConfig, EvalConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import ArtifactError, ConfigError, MissingFileError
from safethink.evaluation import folder
from safethink.evaluation.metrics import NAMES
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import ContextCounts, PrefixSummary, Summary
from safethink.prefix import Identity, Metric, Prefix, PrefixArtifact

VALIDATION = Metric(value=0.9, low=0.86, high=0.93, n=100)


@pytest.fixture
def config() -> EvalConfig:
    return yaml_config.load(EvalConfig, shipped_config("eval/testbed"))


@pytest.fixture
def artifact(tmp_path: Path) -> PrefixArtifact:
    made = PrefixArtifact(
        name="learned",
        prefixes=(Prefix(text="Wait", token_ids=(3,)),),
        reasoner=Identity(name="tiny", sha256="a" * 64),
        monitor=Identity(name="tiny-guard", sha256="b" * 64),
        metrics={"recovery_rate": VALIDATION},
    )
    return prefix.save(made, tmp_path / "artifact", None, "a card")


def cells(**values: float) -> dict[str, Estimate | None]:
    """All columns; those that are given were measured."""
    return {
        name: Estimate(values[name], values[name] - 0.03, values[name] + 0.04, 300, 6) if name in values else None
        for name in NAMES
    }


def summary(config: EvalConfig, artifact: PrefixArtifact) -> Summary:
    rows = {row.name: cells(asr_answer=0.3) for row in config.rows}
    rows["undefended"] = cells(asr_answer=0.7, asr_trace=0.8)
    rows["safethink_learned"] = cells(asr_answer=0.2, asr_trace=0.25, recovery_rate=0.8, invalid=0.01)
    return Summary(
        prefix=PrefixSummary(
            path="artifact", texts=artifact.texts, test_evaluations=2, learned_sha256=artifact.learned_hash()
        ),
        rows=rows,
        comparisons={"learned_vs_undefended": cells(asr_answer=-0.5, asr_trace=-0.55, accuracy=-0.01)},
        outcomes={},
        depth_curve=(),
        contexts=ContextCounts(watched=9, fired=3, confirmed=2),
        monitor_rates=None,
        texts={},
    )


@pytest.fixture
def run(config: EvalConfig, artifact: PrefixArtifact, tmp_path: Path) -> Path:
    """The folder of a finished evaluation."""
    out = tmp_path / "run"
    out.mkdir()
    (out / folder.CONFIG).write_text(yaml_config.dump(config))
    (out / folder.MODELS).write_text(json.dumps({"reasoner": "a" * 64, "guard": "b" * 64}))
    (out / folder.SUMMARY).write_text(summary(config, artifact).model_dump_json())
    return out


def test_a_finished_test_is_written_down_whole(artifact: PrefixArtifact, run: Path, tmp_path: Path) -> None:
    reported = holdout_metrics.report_run(tmp_path / "artifact", run)
    assert prefix.load(tmp_path / "artifact") == reported
    assert (reported.test_evaluations, reported.reported_by) == (2, "testbed")
    assert reported.metrics["recovery_rate"] == VALIDATION
    measured = {name: metric.value for name, metric in reported.metrics.items()}
    assert measured == pytest.approx(
        {
            "recovery_rate": 0.9,
            "asr_test": 0.2,
            "asr_undefended_test": 0.7,
            "asr_change_test": -0.5,
            "asr_trace_test": 0.25,
            "asr_trace_undefended_test": 0.8,
            "asr_trace_change_test": -0.55,
            "accuracy_change_test": -0.01,
            "invalid_test": 0.01,
            "recovery_rate_test": 0.8,
            "recovery_fall_validation_to_test": 0.1,
        }
    )
    asr = reported.metrics["asr_test"]
    assert (asr.low, asr.high, asr.n, asr.clusters) == (pytest.approx(0.17), pytest.approx(0.24), 300, 6)
    fall = reported.metrics["recovery_fall_validation_to_test"]
    assert (fall.low, fall.high) == pytest.approx((0.1 - 0.0566, 0.1 + 0.0424), abs=1e-3)
    assert "| `asr_test` | 0.200 | 0.170 to 0.240 | 300 | 6 |" in (tmp_path / "artifact" / "README.md").read_text()


def test_a_fall_is_told_only_where_both_sides_treat_the_prefix_alike(
    config: EvalConfig, artifact: PrefixArtifact
) -> None:
    steered = "safethink_learned"
    found = summary(config, artifact)
    kept = artifact.replace(
        metrics={"recovery_rate": VALIDATION, "recovery_guarded": VALIDATION},
        config={"run": {"defense": {"kind": "safethink", "keep_prefix": True, "max_resamples": 5}}},
    )
    for dropped, is_told in ((False, True), (True, False)):
        reported = holdout_metrics.with_test(kept, config, found.replace(prefix_kept={steered: not dropped}))
        assert ("recovery_fall_validation_to_test" in reported.metrics) == is_told


def test_a_summary_from_before_a_column_was_measured_is_read(config: EvalConfig, artifact: PrefixArtifact) -> None:
    found = summary(config, artifact)
    later = ("recovery_guarded", "recovery_kept", "recovery_dropped", "empty_resamples")
    rows = {row: {name: cell for name, cell in each.items() if name not in later} for row, each in found.rows.items()}
    old = found.model_dump(mode="json", exclude={"interventions", "prefix_kept"}) | {"rows": rows}
    read = Summary.model_validate(old)
    assert not read.interventions
    assert "recovery_guarded_test" not in holdout_metrics.with_test(artifact, config, read).metrics


def test_reporting_again_changes_nothing(artifact: PrefixArtifact, run: Path, tmp_path: Path) -> None:
    first = holdout_metrics.report_run(tmp_path / "artifact", run)
    assert holdout_metrics.report_run(tmp_path / "artifact", run) == first


def test_numbers_of_another_artifact_are_refused(artifact: PrefixArtifact, run: Path, tmp_path: Path) -> None:
    other = artifact.replace(prefixes=(Prefix(text="Hmm", token_ids=(4,)),), name="other")
    prefix.save(other, tmp_path / "other", None, "a card")
    with pytest.raises(ArtifactError, match="evaluated another artifact: 'artifact', not 'other'"):
        holdout_metrics.report_run(tmp_path / "other", run)


def test_numbers_of_another_guard_are_refused(artifact: PrefixArtifact, run: Path, tmp_path: Path) -> None:
    (run / folder.MODELS).write_text(json.dumps({"reasoner": "a" * 64, "guard": "c" * 64}))
    before = (tmp_path / "artifact" / "prefix.json").read_bytes()
    with pytest.raises(ArtifactError, match="under another guard than it was learned with"):
        holdout_metrics.report_run(tmp_path / "artifact", run)
    assert (tmp_path / "artifact" / "prefix.json").read_bytes() == before


def test_numbers_on_another_reasoner_are_refused(artifact: PrefixArtifact, run: Path, tmp_path: Path) -> None:
    found = Summary.model_validate_json((run / folder.SUMMARY).read_bytes())
    elsewhere = found.prefix.replace(transferred=True)
    (run / folder.SUMMARY).write_text(found.replace(prefix=elsewhere).model_dump_json())
    with pytest.raises(ArtifactError, match="on another reasoner than it was learned on"):
        holdout_metrics.report_run(tmp_path / "artifact", run)


def test_validation_is_no_test(config: EvalConfig, artifact: PrefixArtifact) -> None:
    benchmarks = tuple(each.replace(split="validation") for each in config.benchmarks)
    seen = config.replace(benchmarks=benchmarks)
    with pytest.raises(ConfigError, match="benchmark 'jailbreak' has the split 'validation'"):
        holdout_metrics.with_test(artifact, seen, summary(config, artifact))


def test_an_evaluation_without_the_prefix_says_nothing_of_it(config: EvalConfig, artifact: PrefixArtifact) -> None:
    others = tuple(row for row in config.rows if row.name != "safethink_learned" and row.defense.kind != "always")
    with pytest.raises(ConfigError, match="no safethink row has the prefix on trial"):
        holdout_metrics.with_test(artifact, config.replace(rows=others), summary(config, artifact))


def test_without_an_undefended_row_only_the_guarded_one_is_known(config: EvalConfig, artifact: PrefixArtifact) -> None:
    guarded = tuple(row for row in config.rows if row.defense.kind != "none")
    found = holdout_metrics.with_test(artifact, config.replace(rows=guarded), summary(config, artifact))
    assert "asr_test" in found.metrics
    assert not [name for name in found.metrics if "undefended" in name or "change" in name]


def test_a_run_that_is_not_finished_is_named(artifact: PrefixArtifact, run: Path, tmp_path: Path) -> None:
    (run / folder.SUMMARY).write_text("{}")
    with pytest.raises(ArtifactError, match=r"summary\.json: not a summary"):
        holdout_metrics.report_run(tmp_path / "artifact", run)
    (run / folder.SUMMARY).unlink()
    with pytest.raises(MissingFileError, match=r"no finished evaluation: it has no summary\.json"):
        holdout_metrics.report_run(tmp_path / "artifact", run)


def test_what_a_prefix_was_learned_on_is_no_test(config: EvalConfig, artifact: PrefixArtifact) -> None:
    published = (AdvBenchConfig(path="goals.csv"),)
    seen = summary(config, artifact)
    clean = Overlaps(prompts={"advbench": 9}, repeated={}, shared={}, learned_on={}, notes={})
    asked = config.replace(benchmarks=published, judge="refusal")
    assert holdout_metrics.with_test(artifact, asked, seen.replace(overlaps=clean)).metrics
    with pytest.raises(ConfigError, match="the prefix was learned on 3 prompts of 'advbench'"):
        holdout_metrics.with_test(artifact, asked, seen.replace(overlaps=clean.replace(learned_on={"advbench": 3})))
