"""`safethink`: runs a guarded reasoner. Help and validation load no torch; models load when a command needs them."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from safethink.cli.calibrate import calibrate
from safethink.cli.flags import POSITIONAL
from safethink.cli.judge_check import judge_check
from safethink.cli.parsing import parse, parse_with_config
from safethink.cli.prefix import PREFIX
from safethink.cli.program import (
    REPORT_EXTRA,
    Command,
    CommandFlags,
    Program,
    RunFlags,
    quiet_libraries,
    run_or_plan,
    show,
)
from safethink.config import EvalConfig, RunConfig

if TYPE_CHECKING:
    from safethink.evaluation.plan import Plan
    from safethink.evaluation.summary import Summary
    from safethink.guarded import SafeThink

EXAMPLES = """examples:
  safethink generate testbed "How do I make tea?"
  safethink generate testbed "How do I make tea?" --json --defense.max_steered_steps 2
  safethink inspect testbed "How do I make tea?" --prefix runs/gcg/artifact
  safethink evaluate configs/eval/testbed.yaml --out runs/eval --world.prompts_seed 7
  safethink calibrate testbed --max-false-interventions 0.01 --out runs/calibrate
  safethink judge-check refusal --labels judge-comparison.csv --out runs/judge-check
  safethink prefix show wait-think-safely
  safethink prefix compare runs/gcg/artifact wait-think-safely --out runs/compare
  safethink testbed --json

CONFIG is a YAML file or the name of a shipped one; each of its keys is also a flag with dots in it, and
`safethink COMMAND CONFIG --help` lists them with the file's values."""


class Generate(CommandFlags):
    """Think and answer, guarded: prints the trace, what was injected, the interventions and the answer.

    On a terminal it prints what is accepted as it comes.
    """

    prompt: Annotated[str, POSITIONAL]
    """Prompt for the reasoner."""


class Inspect(CommandFlags):
    """The same as `generate`, with every token coloured by its origin and all that the monitor was fed."""

    prompt: Annotated[str, POSITIONAL]
    """Prompt for the reasoner."""


class Evaluate(RunFlags):
    """Run several defenses over several benchmarks; run it again to go on where it was interrupted.

    Writes config.yaml, models.json, numerics.json, records.jsonl, summary.json and report.html.
    """

    out: Path = Path("runs/eval")
    """Folder of the run."""
    wide: bool = False
    """Print all columns, however wide they are."""
    show_texts: bool = False
    """Show a prompt and what became of it in the report, also where it is a real one; it may be harmful. Of a finished
    run this only writes the report anew."""


class Testbed(CommandFlags):
    """Folders of the shipped models, and the model card with their metrics."""


def generate(argv: Sequence[str]) -> None:
    """`safethink generate`."""
    flags, config = parse_with_config(Generate, RunConfig, "run", "safethink generate", argv)
    from safethink.cli.views import outcome

    guarded = _guarded(config)
    if sys.stdout.isatty() and not flags.as_json:
        from rich.console import Console

        from safethink.cli.views import play

        play(guarded.stream(flags.prompt), Console())
        return
    result = guarded(flags.prompt)

    def plain(ids: Sequence[int]) -> str:
        return guarded.thought.decode(ids, plain=True)

    show(flags.as_json, result.to_json, lambda: outcome(result, plain))


def inspect(argv: Sequence[str]) -> None:
    """`safethink inspect`."""
    flags, config = parse_with_config(Inspect, RunConfig, "run", "safethink inspect", argv)
    from safethink.cli.views import inspection
    from safethink.monitors.combinations import RecordingMonitor

    guarded = _guarded(config)
    recorder = None if guarded.monitor is None else RecordingMonitor(guarded.monitor)
    guarded.monitor = recorder
    result = guarded(flags.prompt)
    readings = [] if recorder is None else recorder.readings
    fed = [{"trace": reading.trace, "score": reading.score} for reading in readings]
    show(
        flags.as_json,
        lambda: result.to_json() | {"monitor": fed, **guarded.thought.as_json()},
        lambda: inspection(result, guarded.thought, readings),
    )


def evaluate(argv: Sequence[str]) -> None:
    """`safethink evaluate`."""
    flags, config = parse_with_config(Evaluate, EvalConfig, "eval", "safethink evaluate", argv)

    def planned() -> Plan:
        from safethink.evaluation.plan import plan

        return plan(config, flags.probe)

    def run() -> Summary:
        from safethink.evaluation import runner

        return runner.evaluate(config, flags.out, show_texts=flags.show_texts)

    def told(summary: Summary) -> str:
        from safethink.evaluation.table import printed

        return printed(summary, flags.wide)

    run_or_plan(flags, [config], planned, run, told, REPORT_EXTRA)


def testbed(argv: Sequence[str]) -> None:
    """`safethink testbed`."""
    from safethink.testbed import folders

    flags = parse(Testbed, "safethink testbed", argv)
    found = folders()
    paths = {name: str(getattr(found, name)) for name in ("reasoner", "reasoner_null", "guard")}
    lines = [f"{name:<14} {path}" for name, path in paths.items()]
    card = jsonlib.dumps(found.card, indent=2, ensure_ascii=False)
    show(flags.as_json, lambda: paths | {"card": found.card}, lambda: "\n".join([*lines, card]))


PROGRAM = Program(
    "safethink",
    "Runs a guarded reasoner: watches its trace, and injects a short corrective prefix when it turns unsafe.",
    (
        Command("generate", "trace, interventions and answer for one prompt", generate),
        Command("inspect", "the same in colour, with what the monitor was fed", inspect),
        Command("evaluate", "several defenses over several benchmarks, with intervals", evaluate, resumes=True),
        Command("calibrate", "the threshold that keeps harmless prompts untouched", calibrate, resumes=True),
        Command("judge-check", "a judge against people, on responses that they labelled", judge_check, resumes=True),
        Command("prefix", "list, show, verify and compare prefix artifacts", PREFIX.run),
        Command("testbed", "where the shipped models lie, and their card", testbed),
    ),
    EXAMPLES,
)


def main() -> None:
    """Entry point of `safethink`."""
    sys.exit(PROGRAM.main())


def _guarded(config: RunConfig) -> SafeThink:
    quiet_libraries()
    from safethink.guarded import SafeThink

    return SafeThink.from_config(config)
