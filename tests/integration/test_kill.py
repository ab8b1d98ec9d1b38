"""kill -9 at any moment, then the same command again: what comes out is what an uninterrupted run gives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimize.search.journal import LOG, untimed
from safethink.errors import MissingFileError
from safethink.evaluation import calibration, folder, records
from safethink.evaluation.summary import Summary
from safethink.monitors import probe
from tests.support.source import ROOT
from tests.support.timeless import SECONDS, timeless

pytestmark = pytest.mark.slow

RUN = {
    "reasoner": {"path": "testbed"},
    "monitor": {"kind": "guard", "path": "testbed"},
    "defense": {"kind": "safethink"},
    "limits": {"max_step_tokens": 48, "max_trace_tokens": 128, "max_answer_tokens": 32},
    "batch_size": 8,
}
EVALUATION = {
    "run": RUN,
    "benchmarks": [
        {"kind": "testbed", "prompts": "jailbreak", "split": "validation", "n": 12},
        {"kind": "testbed", "prompts": "harmless", "split": "validation", "n": 4},
    ],
    "rows": [
        {"name": "undefended", "defense": {"kind": "none"}},
        {"name": "safethink_learned", "defense": {"kind": "safethink"}},
    ],
    "depth_curve": [],
}
SEARCH = {
    "run": RUN,
    "contexts": {"prompts": 12, "harmless_prompts": 4, "max_contexts": 4, "best_of": 4},
    "search": {"kind": "gcg", "init": None, "length": 3, "steps": 16, "candidates": 24, "top_k": 12},
    "selection": {"finalists": 6, "spread": 2, "contexts": 4, "samples": 1, "forced_prompts": 2},
}
EVALUATE = "from safethink.cli.main import main; main()", "evaluate"
LEARN = "from optimize.cli import main; main()", "search"
CALIBRATE = "from safethink.cli.main import main; main()", "calibrate"
TRAIN = "from optimize.cli import main; main()", "monitor"
TRAINING = {"run": RUN, "attacks": 32, "borderline": 0, "harmless": 8, "monitor": {"kind": "probe", "max_epochs": 20}}
TIMEOUT_S = 500


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command in a process of its own; whatever still runs is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(command: tuple[str, str], config: dict[str, Any], out: Path, *flags: str) -> subprocess.Popen[str]:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        code, word = command
        arguments = [sys.executable, "-c", code, word, str(path), "--out", str(out), *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(
            arguments, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        started.append(child)
        return child

    yield begin
    for child in started:
        child.kill()
        child.communicate()


def finish(child: subprocess.Popen[str]) -> None:
    said = complaint(child)
    assert child.returncode == 0, said


def complaint(child: subprocess.Popen[str]) -> str:
    """What a process says on stderr until it ends."""
    return child.communicate(timeout=TIMEOUT_S)[1]


def kill_at(child: subprocess.Popen[str], path: Path, lines: int) -> None:
    """Kill -9 as soon as a file has that many lines."""
    deadline = time.monotonic() + TIMEOUT_S
    while count_lines(path) < lines:
        assert child.poll() is None, f"ended with {count_lines(path)} lines in {path.name}: {complaint(child)}"
        assert time.monotonic() < deadline, f"{path.name} never had {lines} lines"
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@contextmanager
def kept(path: Path) -> Iterator[None]:
    """Whole lines of a file that a rerun must leave as they are.

    Of a search's log all but the last: killed before its state was in place, that step is done and timed again.
    """
    before = path.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    if path.name == LOG:
        before = before[: before.rfind(b"\n", 0, -1) + 1]
    yield
    assert path.read_bytes().startswith(before)


def summary(out: Path) -> dict[str, Any]:
    return timeless(Summary.model_validate_json((out / folder.SUMMARY).read_bytes()))


def test_an_evaluation_killed_twice_ends_with_the_same_summary(start, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(EVALUATE, EVALUATION, whole)
    path = out / folder.RECORDS
    # Among the guarded runs, then among the injections.
    kill_at(start(EVALUATE, EVALUATION, out), path, lines=9)
    with path.open("r+b") as file:
        # A machine that lost power leaves half a line.
        file.truncate(path.stat().st_size - 40)
    torn = path.read_bytes().rpartition(b"\n")[2]
    assert torn
    assert not json_line(torn)
    with kept(path):
        kill_at(start(EVALUATE, EVALUATION, out), path, lines=55)
    assert not (out / folder.SUMMARY).exists()
    with kept(path):
        finish(start(EVALUATE, EVALUATION, out))
    finish(undisturbed)
    assert summary(out) == summary(whole)
    assert done(path) == done(whole / folder.RECORDS)
    phases = {"watch", "guarded", "recovery", "recovery_guarded", "forced"}
    assert phases == {record.phase for record in records.read(path)}


def test_a_search_killed_twice_ends_with_the_same_artifact(start, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    undisturbed = start(LEARN, SEARCH, whole)
    log, trials = out / LOG, out / "selection.jsonl"
    # In the middle of the search, and while finalists are tried.
    kill_at(start(LEARN, SEARCH, out), log, lines=9)
    with kept(log):
        kill_at(start(LEARN, SEARCH, out), trials, lines=2)
    assert not (out / "artifact" / "prefix.json").exists()
    with kept(log), kept(trials):
        finish(start(LEARN, SEARCH, out))
    finish(undisturbed)
    files = {path.name for path in (whole / "artifact").iterdir()}
    assert {"prefix.json", "search.jsonl", "README.md"} <= files
    for name in files - {log.name}:
        assert (out / "artifact" / name).read_bytes() == (whole / "artifact" / name).read_bytes(), name
    assert (out / "artifact" / log.name).read_bytes() == log.read_bytes()
    assert untimed(log) == untimed(whole / log.name)
    assert count_lines(log) == SEARCH["search"]["steps"]
    assert trials.read_bytes() == (whole / "selection.jsonl").read_bytes()
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_calibration_killed_ends_with_the_same_threshold(start, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    flags = "--max-false-interventions", "0.05", "--n", "80"
    kill_at(start(CALIBRATE, RUN, out, *flags), out / folder.RECORDS, lines=20)
    assert not (out / calibration.JSON_FILE).exists()
    with kept(out / folder.RECORDS):
        finish(start(CALIBRATE, RUN, out, *flags))
    finish(start(CALIBRATE, RUN, whole, *flags))
    found, expected = (json.loads((path / calibration.JSON_FILE).read_text()) for path in (out, whole))
    assert about(found) == expected
    assert done(out / folder.RECORDS) == done(whole / folder.RECORDS)


def test_a_monitors_training_killed_among_its_rollouts_ends_with_a_probe(start, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    path = out / "rollouts" / "validation" / folder.RECORDS
    kill_at(start(TRAIN, TRAINING, out), path, lines=9)
    with pytest.raises(MissingFileError, match="no probe at"):
        probe.load(out / "monitor")
    with kept(path), kept(out / "rollouts" / "search" / folder.RECORDS):
        finish(start(TRAIN, TRAINING, out))
    assert probe.load(out / "monitor").card.metrics


def json_line(line: bytes) -> bool:
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def done(path: Path) -> dict[records.Key, Any]:
    """Every row, done once; scores up to the last digits, which depend on the rows they are batched with."""
    found = list(records.read(path))
    assert len({record.key for record in found}) == len(found), "a row was done twice"
    return {record.key: about(record.model_dump(exclude=SECONDS)) for record in found}


def about(value: Any) -> Any:
    match value:
        case float():
            return pytest.approx(value, abs=1e-5)
        case dict():
            return {key: about(each) for key, each in value.items()}
        case tuple() | list():
            return [about(each) for each in value]
        case _:
            return value
