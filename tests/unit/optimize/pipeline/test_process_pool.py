"""Processes that run tasks: one that dies loses its task, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from optimize.pipeline.process_pool import Pool, explain
from optimize.pipeline.setup import Models
from safethink.errors import SafeThinkError
from tests.support.source import ROOT


@dataclass(frozen=True)
class Step:
    """Does what its word says."""

    name: str
    folder: Path
    word: str = "write"
    after: tuple[str, ...] = ()

    @property
    def log(self) -> Path:
        return self.folder / self.name / "log.txt"

    def run(self, models: Models) -> None:
        print("progress")
        match self.word:
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "complain":
                raise SafeThinkError("the monitor\nnever fires")
            case "break":
                raise ZeroDivisionError("by zero")
            case "wait":
                (self.folder / "pid").write_text(str(os.getpid()))
                time.sleep(600)
            case _:
                written = sorted(path.parent.name for path in self.folder.glob("*/done"))
                (self.folder / self.name / "done").write_text(",".join(written))


@pytest.mark.slow
def test_what_fails_is_named_in_one_line_and_the_rest_is_done(tmp_path: Path) -> None:
    tasks = [
        Step("first", tmp_path),
        Step("killed", tmp_path, "die"),
        Step("unfit", tmp_path, "complain"),
        Step("bug", tmp_path, "break"),
        Step("behind", tmp_path, after=("killed",)),
        Step("far behind", tmp_path, after=("behind",)),
        Step("second", tmp_path, after=("first",)),
        Step("third", tmp_path, after=("second", "done before")),
    ]
    with Pool(2) as pool:
        failures = pool.run(tasks, "steps")
        again = pool.run([Step("later", tmp_path)], "more")
    assert again == {}
    assert failures == {
        "killed": "its process died (exit code -9)",
        "unfit": "the monitor never fires",
        "bug": f"ZeroDivisionError: by zero; see {tmp_path / 'bug' / 'log.txt'}",
        "behind": "not run, because 'killed' failed",
        "far behind": "not run, because 'behind' failed",
    }
    assert sorted(path.parent.name for path in tmp_path.glob("*/done")) == ["first", "later", "second", "third"]
    assert "second" in (tmp_path / "third" / "done").read_text()
    assert "Traceback" in (tmp_path / "bug" / "log.txt").read_text()
    assert "progress" in (tmp_path / "first" / "log.txt").read_text()
    said = explain(failures)
    assert "\n" not in said
    assert said.endswith("2 not run because of it")


PARENT = """
from pathlib import Path
from optimize.pipeline.process_pool import Pool
from tests.unit.optimize.pipeline.test_process_pool import Step

if __name__ == "__main__":
    with Pool(1) as pool:
        pool.run([Step("wait", Path({folder!r}), "wait")], "waiting")
"""


@pytest.mark.slow
def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(folder=str(tmp_path)))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 20
    while is_running(int((tmp_path / "pid").read_text())):
        assert time.monotonic() < deadline, "the process outlived its parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
