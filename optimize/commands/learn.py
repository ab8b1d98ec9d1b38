"""Commands that learn: contexts, a prefix, a monitor, and the testbed's models."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from optimize.config import CollectConfig, SearchConfig
from optimize.config.budget import parse_budget
from optimize.monitors.config import TrainMonitorConfig
from safethink import errors
from safethink.cli.parsing import parse, parse_with_config
from safethink.cli.program import CommandFlags, RunFlags, metric_lines, quiet_libraries, run_or_plan
from safethink.config.section import Section

if TYPE_CHECKING:
    from optimize.contexts.folder import Manifest
    from optimize.monitors.run import Plan, Trained
    from optimize.pipeline.dry_run import ContextsPlan, SearchPlan
    from safethink.prefix import PrefixArtifact


class Contexts(RunFlags):
    """Collect the states at which the monitor fires, once, for every search that is given the folder.

    Pass it on with `--contexts.path OUT`. Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/contexts")
    """Folder of the contexts."""


class Search(RunFlags):
    """Learn a prefix and export it; run it again to go on where it was interrupted.

    Writes the artifact to OUT/artifact; its search.jsonl gets every step of the search as it happens. With --dry-run,
    two steps are tried on the reasoner itself where it is on this machine.
    """

    out: Path = Path("runs/search")
    """Folder of the run."""
    budget: str | None = None
    """In place of search.budget_tokens: a time such as 90s, 20m or 1h30m, or tokens such as 200k. A time is turned into
    tokens once, by two steps tried on this machine; what resumes keeps that number. It is the search's alone."""


class Monitor(RunFlags):
    """Train a monitor from another's labels, or from what became of each trace: a probe, a reward model, a classifier.

    Run it again to go on where it stopped.

    Writes the monitor to OUT/monitor, which `monitor.path` takes, and what was measured to OUT/summary.json.
    """

    out: Path = Path("runs/monitor")
    """Folder of the training."""


class World(Section):
    """The world that the models are trained on; a run's `world` must match that of its models."""

    kind: Literal["planted", "hackable", "costly"] = "planted"
    """`hackable`: some words make drift look safe to the guard; `costly`: the strongest words make borderline prompts
    refused. Both train their reasoner alone, in half the time, and are measured with the shipped guard."""
    seed: int = 0
    """Fixes its dynamics."""


class Testbed(CommandFlags):
    """Train the testbed's reasoners and guard, about half an hour on two cores, and write a card that measures them.

    Run it again to go on where it was interrupted.
    """

    out: Path = Path("runs/testbed")
    """Receives the folders `reasoner`, `reasoner_null` and `guard`, or `reasoner` alone, and card.json."""
    world: World = World()


def contexts(argv: Sequence[str]) -> None:
    """`safethink-optimize contexts`."""
    flags, config = parse_with_config(Contexts, CollectConfig, "contexts", "safethink-optimize contexts", argv)

    def plan() -> ContextsPlan:
        from optimize.pipeline.dry_run import plan_contexts

        return plan_contexts(config, flags.probe)

    def run() -> Manifest:
        from optimize.pipeline.api import contexts_command

        return contexts_command(config, flags.out)

    run_or_plan(flags, [config], plan, run, lambda found: _collected(found, flags.out), {"report": ["scipy"]})


def _collected(manifest: Manifest, out: Path) -> str:
    from optimize.contexts.context import ContextSet
    from optimize.contexts.folder import SEARCH, VALIDATION

    lines = [f"{out / name}: {ContextSet.load(out / name).told()}" for name in (SEARCH, VALIDATION)]
    lines += [
        f"{overlap.shared} of {overlap.total} prompts of {name} were rolled out: do not report on it"
        for name, overlap in manifest.overlaps.items()
    ]
    return "\n".join(lines)


def search(argv: Sequence[str]) -> None:
    """`safethink-optimize search`."""
    flags, config = parse_with_config(
        Search, SearchConfig, "search", "safethink-optimize search", argv, follow=named_after_its_method
    )

    budget = None if flags.budget is None else parse_budget(flags.budget)

    def plan() -> SearchPlan:
        from optimize.pipeline.api import search_plan_command

        return search_plan_command(config, flags.out, budget, flags.probe)

    def run() -> PrefixArtifact | None:
        from optimize.pipeline.api import shared_search_command

        return shared_search_command(config, flags.out, budget)

    run_or_plan(flags, [config], plan, run, lambda found: _learned(found, config, flags.out), {"report": ["scipy"]})


def named_after_its_method(file: SearchConfig, config: SearchConfig) -> SearchConfig:
    """Rename a search whose method was changed by a flag but whose name was not: `testbed-gcg` to `testbed-beam`."""
    if config.search.kind == file.search.kind or config.name != file.name:
        return config
    stem = file.name.removesuffix(f"-{file.search.kind}")
    return config.replace(name=f"{stem}-{config.search.kind}")


def _learned(artifact: PrefixArtifact, config: SearchConfig, out: Path) -> str:
    from optimize.pipeline.learning import ARTIFACT
    from optimize.selection.constraints import Constraints

    texts = [repr(text) for text in artifact.texts]
    missed = Constraints.of(artifact.metrics, config.selection.max_forced_loss).missed
    said = [] if missed is None else [f"{missed} Where the monitor fires wrongly, this is its price."]
    return "\n".join([*texts, *metric_lines(artifact.metrics), *said, f"artifact: {out / ARTIFACT}"])


def monitor(argv: Sequence[str]) -> None:
    """`safethink-optimize monitor`."""
    flags, config = parse_with_config(Monitor, TrainMonitorConfig, "monitor", "safethink-optimize monitor", argv)
    needed = {"probe": ["lightning"], "reward": ["trl", "datasets"], "classifier": ["peft", "datasets"]}

    def plan() -> Plan:
        from optimize.monitors.run import plan

        return plan(config, flags.probe)

    def run() -> Trained:
        from optimize.monitors.run import run

        return run(config, flags.out)

    run_or_plan(flags, [config], plan, run, _trained, {"train": needed[config.monitor.kind], "report": ["scipy"]})


def _trained(summary: Trained) -> str:
    counts = [
        f"{name}: {count} partial traces, {summary.unsafe[name]} unsafe"
        for name, count in summary.partial_traces.items()
    ]
    path = f"monitor: {{kind: {summary.kind}, path: {summary.path}}}"
    return "\n".join([*counts, *metric_lines(summary.metrics), path])


def testbed(argv: Sequence[str]) -> None:
    """`safethink-optimize testbed`."""
    flags = parse(Testbed, "safethink-optimize testbed", argv)
    errors.require("report", "scipy")
    quiet_libraries()
    from optimize.testbed import train

    card = jsonlib.loads(train(flags.out, flags.world.seed, flags.world.kind).read_text(encoding="utf-8"))
    print(jsonlib.dumps(card, indent=None if flags.as_json else 2, ensure_ascii=False))
