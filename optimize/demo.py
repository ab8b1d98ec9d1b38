"""The main job, end to end on the testbed: learn a prefix, export it, guard the reasoner with it, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimize.config import SearchConfig
from safethink import yaml_config
from safethink.config import EvalConfig
from safethink.shipped import shipped_config

if TYPE_CHECKING:
    from safethink.evaluation.summary import Summary

SEARCH: Final = "search/testbed-gcg"
EVALUATION: Final = "eval/testbed"
LEARNING: Final = "learning"
ON_TRIAL: Final = "safethink_learned"


def run(out: Path) -> Summary:
    """Learn on `search`, choose on `validation`, report on `test`; killed and started again, it goes on where it was.

    Args:
        out: receives the report, the summary and the records; the search and its artifact go to `out/learning`.

    Returns:
        The summary of the evaluation.
    """
    from optimize.api import search_command
    from optimize.learning import ARTIFACT
    from safethink.evaluation.runner import evaluate

    artifact = out / LEARNING / ARTIFACT
    search_command(yaml_config.load(SearchConfig, shipped_config(SEARCH)), out / LEARNING)
    evaluation = yaml_config.load(EvalConfig, shipped_config(EVALUATION)).model_copy(update={"prefix": str(artifact)})
    summary = evaluate(evaluation, out)
    _report_on_card(artifact, summary, evaluation.judge)
    return summary


def _report_on_card(folder: Path, summary: Summary, judge: str) -> None:
    """Write what `test` showed into the artifact: the recovery rate there, and how far it fell from validation."""
    from optimize import metrics
    from optimize.card import card
    from safethink import prefix

    recovery = summary.rows[ON_TRIAL]["recovery_rate"]
    if recovery is None:
        return
    artifact = prefix.load(folder)
    reported = metrics.with_test(artifact, metrics.of_estimate(recovery), judge, summary.prefix.test_evaluations)
    prefix.save(reported, folder, folder / prefix.LOG_FILE, card(reported))
