"""`safethink-optimize`: learns. Help and validation load no torch; models load when a command needs them."""

from __future__ import annotations

import sys

from optimize.commands.experiments import ablate, demo, study
from optimize.commands.learn import contexts, monitor, search, testbed
from optimize.commands.publish import export, publish
from optimize.commands.reasoner import reasoner
from safethink.cli.program import Command, Program

EXAMPLES = """examples:
  safethink-optimize contexts testbed --out runs/contexts
  safethink-optimize search testbed-gcg --out runs/gcg
  safethink-optimize search configs/search/testbed-gcg.yaml --out runs/gcg --search.length 6 --dry-run
  safethink-optimize publish runs/gcg/artifact --evaluation runs/eval --to ./published
  safethink-optimize export runs/soft/artifact --reasoner testbed --out runs/extended
  safethink-optimize study testbed --out runs/study --workers 2
  safethink-optimize ablate testbed-length --out runs/length
  safethink-optimize ablate testbed-threshold --out runs/threshold --axes.run.defense.threshold -0.5 0.0 0.5
  safethink-optimize monitor testbed-probe --out runs/probe
  safethink-optimize reasoner smollm2 --out runs/reasoner
  safethink-optimize testbed --out runs/testbed --world.seed 1
  safethink-optimize testbed --out runs/hackable --world.kind hackable
  safethink-optimize demo --out runs/demo

CONFIG is a YAML file or the name of a shipped one; each of its keys is also a flag with dots in it, and
`safethink-optimize COMMAND CONFIG --help` lists them with the file's values."""


PROGRAM = Program(
    "safethink-optimize",
    "Learns corrective prefixes, and trains monitors and the testbed's models.",
    (
        Command("contexts", "collect the states at which the monitor fires, for many searches", contexts, resumes=True),
        Command("search", "learn a prefix and export it as an artifact", search, resumes=True),
        Command("publish", "put an artifact into a folder or on the hub, with its card", publish),
        Command("export", "write a reasoner in which the rows of a soft prefix are tokens, for any server", export),
        Command("study", "let Optuna choose how to search: one trial is one search", study, resumes=True),
        Command("ablate", "measure every cell of a grid: lengths, methods, thresholds, ...", ablate, resumes=True),
        Command("monitor", "train a monitor from another's labels: a probe, or a reward model", monitor, resumes=True),
        Command("reasoner", "make a small reasoner of a pretrained model, and measure it", reasoner, resumes=True),
        Command("testbed", "train the testbed's models from a seed", testbed, resumes=True),
        Command("demo", "learn, export, guard and report, end to end on the testbed", demo, resumes=True),
    ),
    EXAMPLES,
)


def main() -> None:
    """Entry point of `safethink-optimize`."""
    sys.exit(PROGRAM.main())
