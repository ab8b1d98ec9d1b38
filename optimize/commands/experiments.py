"""Many searches, and one from end to end: ablations, studies, and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from optimize.ablation.config import AblationConfig
from optimize.ablation.grid import expand
from optimize.config import SearchConfig
from optimize.study.config import StudyConfig
from safethink import errors
from safethink.cli.parsing import parse, parse_with_config
from safethink.cli.program import REPORT_EXTRA, CommandFlags, RunFlags, quiet_libraries, run_or_plan, show
from safethink.config import EvalConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.errors import SafeThinkError, SearchError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from optimize.ablation.plan import AblationPlan
    from optimize.ablation.results import Ablation
    from optimize.study.plan import StudyPlan
    from optimize.study.report import Line
    from safethink.evaluation.summary import Summary

DEMO_SEARCH: Final = "search/testbed-gcg"
DEMO_EVALUATION: Final = "eval/testbed"
DEMO_LEARNING: Final = "learning"


class Ablate(RunFlags):
    """Learn or take a prefix in every cell of a grid, and measure them all alike.

    Writes OUT/ablation.json, OUT/report.html and a folder for every cell. Run it again to go on where it was
    interrupted: a finished cell is never run again, and a grid may grow.
    """

    out: Path = Path("runs/ablation")
    """Folder of the ablation."""


class Study(RunFlags):
    """Let Optuna choose how to search: one trial is one whole search, judged on validation.

    Run it again to go on; start it on several machines with one `--storage` to share the trials.
    """

    out: Path = Path("runs/study")
    """Folder of the study; the report is OUT/report.html, every trial's search is in OUT/trials."""


class Demo(CommandFlags):
    """The main job on the testbed: learn a prefix, export it, guard the reasoner with it, report.

    Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/demo")
    """Folder of the run."""
    wide: bool = False
    """Print all columns, however wide they are."""


def ablate(argv: Sequence[str]) -> None:
    """`safethink-optimize ablate`."""
    flags, config = parse_with_config(Ablate, AblationConfig, "ablate", "safethink-optimize ablate", argv)
    expand(config)  # A mistake in the grid is named before anything loads.

    def plan() -> AblationPlan:
        from optimize.ablation.plan import plan

        return plan(config, flags.probe)

    def run() -> Ablation:
        from optimize.ablation.run import ablate

        return ablate(config, flags.out)

    def told(ablation: Ablation) -> RenderableType:
        from optimize.ablation.report import table

        return table(ablation) if ablation.points else "nothing was measured"

    done = run_or_plan(flags, [config], plan, run, told, REPORT_EXTRA)
    if done is None:
        return
    from optimize.ablation.run import REPORT
    from optimize.pipeline.process_pool import explain

    if not flags.as_json:
        print(f"report: {flags.out / REPORT}")
    if done.failures:
        raise SafeThinkError(f"{explain(done.failures)}; the same command runs what is missing")


@dataclass(frozen=True, slots=True)
class _Studied:
    """Outcome of a study.

    Attributes:
        lines: its trials.
        winners: folders of the best trials' artifacts.
        page: the report.
        why_nothing: what the first failed trial says, where no trial found a prefix.
    """

    lines: Sequence[Line]
    winners: Sequence[Path]
    page: Path
    why_nothing: str | None


def study(argv: Sequence[str]) -> None:
    """`safethink-optimize study`."""
    flags, config = parse_with_config(Study, StudyConfig, "study", "safethink-optimize study", argv)

    def plan() -> StudyPlan:
        from optimize.study.plan import plan_study

        return plan_study(config, flags.probe)

    needs = {"study": ["optuna", "scipy", "plotly"]}
    done = run_or_plan(
        flags,
        [config],
        plan,
        lambda: _study(config, flags.out),
        _told,
        needs,
        lambda found: [*map(asdict, found.lines)],
    )
    if done is not None and done.why_nothing is not None:
        raise SearchError(f"no trial found a prefix; the first of them says: {done.why_nothing}")


def _study(config: StudyConfig, out: Path) -> _Studied:
    from optimize.quiet import quiet_optuna
    from optimize.study import report, storage, workers

    out.mkdir(parents=True, exist_ok=True)
    with quiet_optuna(), storage.reachable(config, out):
        finished = workers.run(config, out)
        winners = report.winners(finished, out)
        page = report.write(finished, config, out)
        return _Studied(report.lines(finished, config), winners, page, report.why_nothing(finished))


def _told(done: _Studied) -> str:
    lines = [
        f"{'*' if line.best else ' '} trial {line.number:<4} {line.state:<9} {_values(line):<44} {line.text!r}"
        for line in done.lines
    ]
    return "\n".join([*lines, *(f"artifact: {folder}" for folder in done.winners), f"report: {done.page}"])


def _values(line: Line) -> str:
    return "  ".join(f"{goal} {value:.3f}{_interval(line, goal)}" for goal, value in line.values.items())


def _interval(line: Line, goal: str) -> str:
    if goal not in line.intervals:
        return ""
    low, high, n = line.intervals[goal]
    return f" [{low:.3f}, {high:.3f}] n = {n}"


def demo(argv: Sequence[str]) -> None:
    """`safethink-optimize demo`."""
    flags = parse(Demo, "safethink-optimize demo", argv)
    errors.require("report", "scipy", "plotly")
    quiet_libraries()
    from safethink.evaluation.table import printed

    summary = run_demo(flags.out)
    page = f"report: {flags.out / 'report.html'}"
    show(flags.as_json, lambda: summary, lambda: f"{printed(summary, flags.wide)}\n{page}")


def run_demo(out: Path) -> Summary:
    """Learn on `search`, choose on `validation`, report on `test`; killed and started again, it goes on where it was.

    Args:
        out: receives the report, the summary and the records; the search and its artifact go to `out/learning`.

    Returns:
        The summary of the evaluation.
    """
    from optimize.pipeline.api import search_command
    from optimize.pipeline.learning import ARTIFACT
    from optimize.publishing.holdout_metrics import report_run
    from safethink.evaluation.runner import evaluate

    artifact = out / DEMO_LEARNING / ARTIFACT
    search_command(yaml_config.load(SearchConfig, shipped_config(DEMO_SEARCH)), out / DEMO_LEARNING)
    evaluation = yaml_config.load(EvalConfig, shipped_config(DEMO_EVALUATION)).replace(prefix=str(artifact))
    summary = evaluate(evaluation, out)
    report_run(artifact, out)
    return summary
