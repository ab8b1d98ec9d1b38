"""Processes that share the contexts find what one finds, bit for bit; devices that do not exist are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from optimize.parallel.cluster import Cluster, launch
from safethink.errors import ConfigError

MODULE = "tests.support.shared_search"
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = (sys.executable, "-m", *command)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def searched(*command: str) -> dict[str, object]:
    """What the search prints."""
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1, "only the main process has something to say"
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def alone() -> dict[str, object]:
    return searched(MODULE, "1") | {"processes": 2}


@pytest.mark.slow
def test_two_processes_find_what_one_finds_bit_for_bit(alone):
    assert searched(MODULE, "2") == alone


@pytest.mark.slow
def test_torchrun_starts_them_too(alone):
    assert searched(*TORCHRUN, MODULE, "1") == alone


@pytest.mark.slow
def test_an_error_of_the_main_process_ends_the_others():
    done = run(MODULE, "2", "fail")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ValueError: the main process fails")


def test_one_process_is_a_cluster_without_anybody_to_talk_to():
    cluster = launch(1, "cpu")
    assert (cluster.rank, cluster.size, cluster.is_main) == (0, 1, True)
    assert list(cluster.share(3)) == [0, 1, 2]
    with cluster.leading():
        cluster.tell("nobody hears it")
    with pytest.raises(KeyError), Cluster.local().leading():
        raise KeyError


def test_devices_that_do_not_exist_are_refused(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    with pytest.raises(ConfigError, match="devices: 3 processes need as many cores: 2"):
        launch(3, "cpu")
    with pytest.raises(ConfigError, match="'cpu:0' names one device"):
        launch(2, "cpu:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ConfigError, match="devices: 2 processes need as many GPUs: 1"):
        launch(2)


def test_torchrun_and_the_configuration_must_not_disagree(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="devices: 3, but torchrun started 2 processes on this machine"):
        launch(3, "cpu")
