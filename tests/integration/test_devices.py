"""`--devices 2`: two processes share the contexts and find, bit for bit, what one finds; devices that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimize.search.journal import untimed
from tests.support.source import ROOT

pytestmark = pytest.mark.slow

SEARCH = {
    "run": {
        "reasoner": {"path": "testbed", "dtype": "float64", "device": "cpu"},
        "monitor": {"kind": "guard", "path": "testbed"},
        "limits": {"max_step_tokens": 48, "max_trace_tokens": 128, "max_answer_tokens": 32},
    },
    "contexts": {"prompts": 12, "harmless_prompts": 4, "max_contexts": 4, "best_of": 4},
    "search": {"kind": "gcg", "length": 3, "steps": 3, "candidates": 12, "init": None},
    "selection": {"finalists": 2, "spread": 0, "contexts": 4, "samples": 1, "forced_prompts": 2},
}
TIMEOUT_S = 240


def learn(folder: Path, config: dict[str, Any], *flags: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    # The other processes run the same command, which must be a file that can be run again.
    command = Path(sys.executable).with_name("safethink-optimize")
    arguments = [str(command), "search", str(path), "--out", str(folder / "run"), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_two_processes_choose_as_one_does(tmp_path):
    alone, shared = learn(tmp_path / "one", SEARCH), learn(tmp_path / "two", SEARCH, "--devices", "2")
    assert alone.returncode == 0, alone.stderr
    assert shared.returncode == 0, shared.stderr
    logs = [untimed(tmp_path / name / "run" / "search.jsonl") for name in ("one", "two")]
    assert logs[0] == logs[1]
    prefixes = [yaml.safe_load((tmp_path / name / "run/artifact/prefix.json").read_text()) for name in ("one", "two")]
    assert prefixes[0]["prefixes"] == prefixes[1]["prefixes"]
    assert prefixes[0]["metrics"] == prefixes[1]["metrics"]


def test_devices_that_are_not_there_are_refused(tmp_path):
    refused = learn(tmp_path / "many", SEARCH, "--devices", "4096")
    assert refused.returncode == 2
    (line,) = refused.stderr.strip().splitlines()
    assert "4096" in line
