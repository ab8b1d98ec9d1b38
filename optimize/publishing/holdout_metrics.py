"""Writes what an evaluation on `test` showed into the artifact that was on trial in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from pydantic import ValidationError

from optimize.publishing.model_card import card, keeps_prefix
from optimize.selection.metrics import of_estimate
from safethink import prefix
from safethink.config import EvalConfig
from safethink.errors import ArtifactError, ConfigError, MissingFileError
from safethink.evaluation import folder
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import Summary, comparison_name
from safethink.prefix import Metric, PrefixArtifact

GUARDED: Final = {
    "asr_test": "asr_answer",
    "asr_trace_test": "asr_trace",
    "invalid_attacks_test": "invalid_attacks",
    "invalid_test": "invalid",
    "recovery_rate_test": "recovery_rate",
    "recovery_guarded_test": "recovery_guarded",
    "empty_resamples_test": "empty_resamples",
    "lift_test": "lift",
    "accuracy_test": "accuracy",
    "over_refusal_test": "over_refusal",
    "false_interventions_test": "false_interventions",
    "extra_tokens_test": "extra_tokens",
}
"""Metric of the artifact: column of the row that steers with it."""
UNDEFENDED: Final = {
    "asr_undefended_test": "asr_answer",
    "asr_trace_undefended_test": "asr_trace",
    "invalid_attacks_undefended_test": "invalid_attacks",
}
"""The same of the row without a defense."""
CHANGES: Final = {
    "asr_change_test": "asr_answer",
    "asr_trace_change_test": "asr_trace",
    "accuracy_change_test": "accuracy",
    "over_refusal_change_test": "over_refusal",
}
"""The same of the paired difference between the two."""
CHANGES_CLOSED: Final = {"asr_closed_change_test": "asr_answer", "asr_trace_closed_change_test": "asr_trace"}
"""The same on prompts whose thinking closed in both."""


def report_run(artifact_folder: Path, run: Path) -> PrefixArtifact:
    """Write what the run of an evaluation showed into the artifact, and its card again.

    Args:
        artifact_folder: the artifact.
        run: what `safethink evaluate --out` wrote.

    Raises:
        MissingFileError: the run is none, or not finished.
        ArtifactError: another artifact was on trial in it, or other weights were.
        ConfigError: it was not on `test`.
    """
    reported = with_run(prefix.load(artifact_folder.resolve()), run)
    return prefix.save(reported, artifact_folder, artifact_folder / prefix.LOG_FILE, card(reported))


def with_run(artifact: PrefixArtifact, run: Path) -> PrefixArtifact:
    """Add what the run of an evaluation showed; raises what `report_run` does."""
    summary = _read_summary(run)
    _check_same(artifact, summary, run)
    return with_test(artifact, folder.read_config(run), summary)


def with_test(artifact: PrefixArtifact, config: EvalConfig, summary: Summary) -> PrefixArtifact:
    """Add what an evaluation on `test` found: guarded, undefended, the paired difference, the fall from validation.

    Args:
        artifact: the artifact that was on trial.
        config: the evaluation.
        summary: what it found.

    Raises:
        ConfigError: not on `test`, or on what the prefix was learned on; or no row steers with the prefix on trial.
    """
    elsewhere = next((each for each in config.benchmarks if not each.is_test), None)
    if elsewhere is not None:
        raise ConfigError(f"the evaluation is no test: benchmark {elsewhere.name!r} has the split {elsewhere.split!r}")
    if summary.overlaps is not None and summary.overlaps.learned_on:
        name, count = next(iter(summary.overlaps.learned_on.items()))
        raise ConfigError(f"the evaluation is no test: the prefix was learned on {count} prompts of {name!r}")
    steered = config.on_trial
    if steered is None:
        raise ConfigError("the evaluation says nothing of the prefix: no safethink row has the prefix on trial")
    measured = _measured(GUARDED, summary.rows[steered.name])
    bare = next((row.name for row in config.rows if row.defense.kind == "none"), None)
    if bare is not None:
        measured |= _measured(UNDEFENDED, summary.rows[bare])
        pair = comparison_name(steered.name, bare)
        measured |= _measured(CHANGES, summary.comparisons[pair])
        measured |= _measured(CHANGES_CLOSED, summary.comparisons_closed.get(pair, {}))
    # The fall is one only where both were measured the same way.
    same_way = keeps_prefix(artifact) == summary.prefix_kept.get(steered.name, True)
    return artifact.replace(
        metrics=artifact.metrics | measured | (fall(artifact.metrics, measured) if same_way else {}),
        reported_by=config.judge_name,
        test_evaluations=summary.prefix.test_evaluations,
    )


def fall(chosen: Mapping[str, Metric], measured: Mapping[str, Metric]) -> dict[str, Metric]:
    """Drop in recovery from validation, where the prefix was chosen, to test; nothing where either is unknown."""
    if "recovery_rate" not in chosen or "recovery_rate_test" not in measured:
        return {}
    there, here = chosen["recovery_rate"], measured["recovery_rate_test"]
    value = there.value - here.value
    # The two are independent, so their errors add in squares, separately on either side.
    below = math.hypot(there.value - there.low, here.high - here.value)
    above = math.hypot(there.high - there.value, here.value - here.low)
    fallen = Metric(value=value, low=value - below, high=value + above, n=here.n)
    return {"recovery_fall_validation_to_test": fallen}


def _measured(names: Mapping[str, str], cells: Mapping[str, Estimate | None]) -> dict[str, Metric]:
    found = ((name, cells.get(column)) for name, column in names.items())
    return {name: of_estimate(estimate) for name, estimate in found if estimate is not None}


def _read_summary(run: Path) -> Summary:
    path = run / folder.SUMMARY
    if not path.is_file():
        raise MissingFileError(f"{run} is no finished evaluation: it has no {folder.SUMMARY}")
    try:
        return Summary.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(f"{path}: not a summary ({error.errors()[0]['msg']})") from error


def _check_same(artifact: PrefixArtifact, summary: Summary, run: Path) -> None:
    """Refuse numbers of another artifact, or of it on another reasoner or under another guard."""
    if summary.prefix.learned_sha256 != artifact.learned_hash():
        raise ArtifactError(f"{run} evaluated another artifact: {summary.prefix.path!r}, not {artifact.name!r}")
    if summary.prefix.transferred:
        raise ArtifactError(f"{run} evaluated {artifact.name!r} on another reasoner than it was learned on")
    models = cast("dict[str, str]", json.loads((run / folder.MODELS).read_text(encoding="utf-8")))
    expected, used = artifact.monitor.sha256 if artifact.monitor else None, models.get("guard")
    if expected is not None and used is not None and expected != used:
        raise ArtifactError(f"{run} evaluated {artifact.name!r} under another guard than it was learned with")
