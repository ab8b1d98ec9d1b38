"""A server that dies in the middle of an evaluation costs the rows in flight, and Ctrl-C does not wait for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from safethink.cli.main import PROGRAM
from safethink.config import ReasonerConfig
from safethink.evaluation import folder, records
from safethink.evaluation.records import Record
from safethink.evaluation.summary import Summary
from safethink.models import loading
from tests.support import vllm_double
from tests.support.source import ROOT
from tests.support.timeless import timeless, timeless_record
from tests.support.vllm_double import VllmDouble

pytestmark = [pytest.mark.slow, pytest.mark.server]

NUM_PROMPTS = 10


@pytest.fixture(scope="module")
def reasoner() -> loading.CausalLM:
    return loading.load(ReasonerConfig(path="testbed"))


@pytest.fixture
def double(reasoner: loading.CausalLM) -> Iterator[VllmDouble]:
    with VllmDouble(reasoner.model, reasoner.tokenizer, max_model_len=512) as served:
        yield served


def write(path: Path, *urls: str) -> Path:
    evaluation: dict[str, Any] = {
        "run": {
            "reasoner": {"path": "testbed", "server": {"urls": list(urls), "max_retries": 0}},
            "monitor": {"kind": "oracle"},
            "limits": {"max_step_tokens": 32, "max_trace_tokens": 96, "max_answer_tokens": 16},
            "batch_size": 4,
        },
        "benchmarks": [{"kind": "testbed", "prompts": "jailbreak", "split": "validation", "n": NUM_PROMPTS}],
        "rows": [{"name": "safethink", "defense": {"kind": "safethink"}}],
        "depth_curve": [],
        "recovery_samples": 0,
        "forced_samples": 0,
    }
    path.write_text(yaml.safe_dump(evaluation))
    return path


def recorded(out: Path) -> dict[Any, Record]:
    return {record.key: timeless_record(record) for record in records.read(out / folder.RECORDS)}


def test_a_server_that_dies_costs_the_rows_in_flight_and_a_rerun_gives_the_same(
    double: VllmDouble, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, whole, out = write(tmp_path / "config.yaml", double.url), tmp_path / "whole", tmp_path / "out"
    assert PROGRAM.main(["evaluate", str(config), "--out", str(whole)]) == 0
    expected = recorded(whole)
    num_requests = len(double.requests)
    double.requests.clear()
    double.dies_after = num_requests // 2
    capsys.readouterr()
    assert PROGRAM.main(["evaluate", str(config), "--out", str(out)]) == 2
    complaint = capsys.readouterr().err.splitlines()[-1]
    assert complaint.startswith("safethink: no answer from the server")
    double.stop()
    kept = recorded(out)
    assert 0 < len(kept) < len(expected)
    assert kept.items() <= expected.items()
    double.dies_after = float("inf")
    # It comes back at another address, which makes it no other run.
    double.port = 0
    double.start()
    config = write(tmp_path / "config.yaml", double.url)
    double.requests.clear()
    assert PROGRAM.main(["evaluate", str(config), "--out", str(out)]) == 0
    assert len(double.requests) < num_requests
    assert recorded(out) == expected
    one, other = (Summary.model_validate_json((each / folder.SUMMARY).read_text()) for each in (whole, out))
    assert timeless(one)["rows"] == timeless(other)["rows"]


def test_replicas_share_the_rows_and_one_may_die(double: VllmDouble, reasoner, tmp_path: Path) -> None:
    config = write(tmp_path / "config.yaml", double.url)
    assert PROGRAM.main(["evaluate", str(config), "--out", str(tmp_path / "one")]) == 0
    double.requests.clear()
    with VllmDouble(reasoner.model, reasoner.tokenizer, max_model_len=512, dies_after=20) as other:
        config = write(tmp_path / "config.yaml", double.url, other.url)
        assert PROGRAM.main(["evaluate", str(config), "--out", str(tmp_path / "two")]) == 0
        assert len(other.requests) > 20
    assert double.requests
    assert recorded(tmp_path / "two") == recorded(tmp_path / "one")


def test_another_served_model_is_another_run(double: VllmDouble, tmp_path: Path, capsys) -> None:
    config, out = write(tmp_path / "config.yaml", double.url), tmp_path / "out"
    assert PROGRAM.main(["evaluate", str(config), "--out", str(out)]) == 0
    double.name = "tuned"
    assert PROGRAM.main(["evaluate", str(config), "--out", str(out)]) == 2
    assert "weights.reasoner is 'served as double' there and 'served as tuned' here" in capsys.readouterr().err


def test_ctrl_c_ends_a_run_that_waits_for_a_server(double: VllmDouble, tmp_path: Path) -> None:
    config, out = write(tmp_path / "config.yaml", double.url), tmp_path / "out"
    # The first request asks for the form of prompts.
    double.faults.extend([lambda: vllm_double.returns(double_answer())(), *[vllm_double.slow(60)] * 8])
    command = [sys.executable, "-c", "from safethink.cli.main import main; main()", "evaluate", config, "--out", out]
    # The child inherits it where the tests were started in the background, which ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    child = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    try:
        deadline_s = time.monotonic() + 120
        while len(double.requests) < 3:
            assert child.poll() is None, child.communicate()[1]
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        _, complaint = child.communicate(timeout=30)  # The server would take twice as long.
        assert child.returncode == 130
        assert complaint.splitlines()[-1].startswith(b"safethink: interrupted")
    finally:
        child.kill()
        child.communicate()


def double_answer() -> dict[str, Any]:
    choice = {"index": 0, "text": "", "finish_reason": "length", "token_ids": [5], "logprobs": None}
    return {"model": "double", "choices": [choice]}
