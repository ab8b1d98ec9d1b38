"""A study on a real PostgreSQL: two workers, one of them killed; only its trial is lost, and tried again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.storages import RetryHeartbeatStaleTrialCallback

from optimize.quiet import quiet_optuna
from optimize.study import storage
from optimize.study.config import StudyConfig
from optimize.study.workers import num_finished
from safethink.config import yaml_config

pytestmark = [pytest.mark.slow, pytest.mark.postgres]

TRIALS = 4
STUDY = """
base:
  run:
    reasoner: {path: testbed}
    monitor: {kind: guard, path: testbed}
    limits: {max_step_tokens: 48, max_trace_tokens: 256, max_answer_tokens: 48}
    batch_size: 64
  contexts: {prompts: 24, harmless_prompts: 4, max_contexts: 6, best_of: 4, target_tokens: 24}
  search: {kind: gcg, length: 4, steps: 2, candidates: 16}
  selection: {finalists: 2, spread: 0, contexts: 8, samples: 1, forced_prompts: 8}
space:
  objective.benign_weight: {kind: float, low: 0.1, high: 1.0}
heartbeat_s: 2
"""


def binaries() -> Path | None:
    """Where PostgreSQL's server programs are, whatever its version."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    return next(iter([*places, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]), None)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[str]:
    """The URL of a fresh database on loopback."""
    bin_folder = binaries()
    if bin_folder is None:
        # CI installs it; on a machine without it this one test cannot be run.
        assert not os.environ.get("CI"), "PostgreSQL is not installed; .ci/run installs it"
        pytest.skip("PostgreSQL is not installed")
    folder = tmp_path_factory.mktemp("postgres")
    # The server refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_user:
        for parent in (folder, *folder.parents):
            if parent.owner() != "root" or parent == Path("/tmp"):
                break
            parent.chmod(0o755)
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    subprocess.run(
        [*as_user, bin_folder / "initdb", "-D", data, "-U", "postgres", "-A", "trust"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
    control = [*as_user, bin_folder / "pg_ctl", "-D", data, "-l", str(folder / "log"), "-w"]
    subprocess.run([*control, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL)
    yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)


def start(config: Path, out: Path, url: str) -> subprocess.Popen[bytes]:
    """A worker, as on a machine of its own."""
    program = "import sys; from optimize.cli import PROGRAM; sys.exit(PROGRAM.main())"
    arguments = ["study", str(config), "--out", str(out), "--storage", url, "--trials", str(TRIALS)]
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.DEVNULL)


def test_a_killed_worker_loses_its_trial_only(postgres, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(STUDY)
    out = tmp_path / "study"
    workers = [start(config, out, postgres) for _ in range(2)]
    try:
        kill_one(config, out, postgres, workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def kill_one(config: Path, out: Path, postgres: str, workers: list[subprocess.Popen[bytes]]) -> None:
    asked = yaml_config.load(StudyConfig, config).replace(storage=postgres)
    with quiet_optuna():
        victim = killed_in_the_middle(asked, out, workers)
        assert workers[1 - victim].wait(timeout=240) == 0
        study = storage.open_study(asked, out)
        states = [trial.state.name for trial in study.trials]
        assert num_finished(study) >= TRIALS
        assert states.count("FAIL") == 1
        failed = next(trial for trial in study.trials if trial.state.name == "FAIL")
        first_of = RetryHeartbeatStaleTrialCallback.retried_trial_number
        retried = [trial for trial in study.trials if first_of(trial) == failed.number]
        assert [trial.state.name for trial in retried] == ["COMPLETE"]
    assert (out / "report.html").exists()


def killed_in_the_middle(asked: StudyConfig, out: Path, workers: list[subprocess.Popen[bytes]]) -> int:
    """Kill a worker while both have a trial in hand; its index.

    Optuna takes a trial for lost by its last heartbeat, and the first one comes a moment after its start: a worker
    killed within that moment leaves a trial that nobody misses. So each has been under way for a second.
    """
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        if out.exists():
            study = storage.open_study(asked, out)
            running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
            since = [trial.datetime_start for trial in running if trial.datetime_start is not None]
            if len(since) == 2 and datetime.now() - max(since) > timedelta(seconds=1):
                workers[0].send_signal(signal.SIGKILL)
                workers[0].wait()
                return 0
        time.sleep(0.1)
    raise AssertionError("the workers never had a trial each")
