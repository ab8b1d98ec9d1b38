"""The main job, end to end on the testbed: learn a prefix, export it, guard the reasoner with it, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimize.config import SearchConfig
from safethink.config import EvalConfig, yaml_config
from safethink.config.shipped import shipped_config

if TYPE_CHECKING:
    from safethink.evaluation.summary import Summary

SEARCH: Final = "search/testbed-gcg"
EVALUATION: Final = "eval/testbed"
LEARNING: Final = "learning"


def run(out: Path) -> Summary:
    """Learn on `search`, choose on `validation`, report on `test`; killed and started again, it goes on where it was.

    Args:
        out: receives the report, the summary and the records; the search and its artifact go to `out/learning`.

    Returns:
        The summary of the evaluation.
    """
    from optimize.pipeline.api import search_command
    from optimize.pipeline.learning import ARTIFACT
    from optimize.publishing.test_report import report_run
    from safethink.evaluation.runner import evaluate

    artifact = out / LEARNING / ARTIFACT
    search_command(yaml_config.load(SearchConfig, shipped_config(SEARCH)), out / LEARNING)
    evaluation = yaml_config.load(EvalConfig, shipped_config(EVALUATION)).replace(prefix=str(artifact))
    summary = evaluate(evaluation, out)
    report_run(artifact, out)
    return summary
