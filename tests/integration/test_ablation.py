"""Ablations on the testbed from end to end: a worker killed, the grid taken up again, and nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from optimize.ablation import run
from optimize.ablation.config import AblationConfig
from optimize.ablation.results import Ablation
from safethink import prefix
from safethink.config import yaml_config
from safethink.errors import ConfigError, RecordError
from safethink.evaluation import records
from tests.support.source import ROOT

pytestmark = pytest.mark.slow

RUN = {
    "reasoner": {"path": "testbed"},
    "monitor": {"kind": "guard", "path": "testbed"},
    "limits": {"max_step_tokens": 48, "max_trace_tokens": 128, "max_answer_tokens": 32},
    "batch_size": 32,
}
LEARN = {
    "base": {
        "run": RUN,
        "contexts": {"prompts": 16, "harmless_prompts": 2, "max_contexts": 3, "best_of": 4},
        "search": {"kind": "gcg", "steps": 3, "candidates": 12, "top_k": 12, "init": None},
        "selection": {"finalists": 2, "spread": 0, "contexts": 6, "samples": 1, "forced_prompts": 2},
    },
    "axes": {"search.length": [1, 2]},
    "methods": {"written": {"phrases": ["Stop", "Wait", "Be safe"]}, "gcg": {"warm_start": True}},
    "controls": ["written"],
    "validation": {"jailbreak": 16, "harmless": 4, "borderline": 4, "recovery_samples": 1},
    "test": {"jailbreak": 10, "harmless": 2, "borderline": 0, "samples": 1, "recovery_samples": 1},
    "workers": 1,
}
LOOP = {
    "base": {"run": RUN | {"monitor": {"kind": "oracle"}}},
    "axes": {"run.monitor.miss_rate": [0.0, 1.0]},
    "methods": {"wait_think_safely": {"learn": False, "set": {"run.prefix": "wait-think-safely"}}},
    "validation": {"jailbreak": 16, "harmless": 2, "borderline": 4, "samples": 1, "recovery_samples": 1},
}
TIMEOUT_S = 300


def start(config: dict[str, Any], out: Path) -> subprocess.Popen[str]:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-c", "from optimize.cli import main; main()", "ablate", str(path), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def worker_of(parent: int) -> int:
    """The process that runs tasks; the other child keeps track of semaphores."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text())


def kill_worker_in(command: subprocess.Popen[str], path: Path) -> None:
    """Kill -9 the worker as soon as a file has a line."""
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists() or b"\n" not in path.read_bytes():
        assert command.poll() is None, command.communicate()[1]
        assert time.monotonic() < deadline, f"{path} never had a line"
        time.sleep(0.002)
    os.kill(worker_of(command.pid), signal.SIGKILL)


def numbers(out: Path) -> Ablation:
    return Ablation.model_validate_json((out / run.NUMBERS).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid whose worker was killed in a cell, taken up again."""
    out = tmp_path_factory.mktemp("runs") / "length"
    command = start(LEARN, out)
    kill_worker_in(command, out / "cells" / "gcg-length=1-seed=0" / "search.jsonl")
    complaint = command.communicate(timeout=TIMEOUT_S)[1].splitlines()[-1]
    assert command.returncode == 2, complaint
    assert complaint.startswith("safethink-optimize: gcg-length=1-seed=0: its process died")
    assert "1 not run because of it" in complaint
    partial = numbers(out)
    assert [cell.name for cell in partial.cells] == ["written-length=1-seed=0", "written-length=2-seed=0"]
    assert set(partial.failures) == {"gcg-length=1-seed=0", "gcg-length=2-seed=0"}
    assert "gcg-length=1-seed=0" in (out / run.REPORT).read_text()
    kept = {path: path.read_bytes() for path in out.glob("cells/written*/*.json")}
    resumed = start(LEARN, out)
    said, complaint = resumed.communicate(timeout=TIMEOUT_S)
    assert resumed.returncode == 0, complaint
    assert "report: " in said
    assert all(path.read_bytes() == content for path, content in kept.items())
    return out


def test_every_cell_has_its_numbers(finished: Path) -> None:
    ablation = numbers(finished)
    assert (ablation.failures, len(ablation.cells), len(ablation.points)) == ({}, 4, 4)
    for point in ablation.points:
        assert {"recovery_rate", "lift", "accuracy_forced", "over_refusal_forced"} <= set(point.metrics)
        assert {"accuracy_forced_change", "over_refusal_forced_change"} <= set(point.metrics)
        assert {"asr_answer", "accuracy", "nll"} <= set(point.test)
        assert all(each.low <= each.value <= each.high for each in [*point.metrics.values(), *point.test.values()])
        assert point.metrics["accuracy_forced"].n == 4
        assert set(point.reference) == {"nothing", "undefended", "guard_refuse"}
        recovery, nothing = point.metrics["recovery_rate"], point.reference["nothing"]["recovery_rate"]
        assert point.metrics["lift"].value == pytest.approx(recovery.value - nothing.value)
        assert (point.against == {}) == (point.tokens == 0) == (point.method == "written")


def test_the_longer_cell_starts_from_the_shorter_ones_artifact(finished: Path) -> None:
    config = yaml.safe_load((finished / "cells" / "gcg-length=2-seed=0" / "config.yaml").read_text())
    shorter = prefix.load(config["search"]["init"])
    assert len(shorter.token_ids[0]) == 1
    first = json.loads((finished / "cells" / "gcg-length=2-seed=0" / "search.jsonl").read_text().splitlines()[0])
    assert first["prefix_ids"][:1] == list(shorter.token_ids[0])


def test_what_cells_share_was_made_once(finished: Path) -> None:
    assert len(list(finished.glob("contexts/*/manifest.json"))) == 1
    assert len(list(finished.glob("references/*/records.jsonl"))) == 2  # validation and test
    for path in finished.glob("cells/*/*/records.jsonl"):
        assert {record.row for record in records.read(path)} == {"on_trial"}


def test_the_winner_carries_what_test_showed(finished: Path) -> None:
    artifact = prefix.load(finished / "cells" / "gcg-length=2-seed=0" / "artifact")
    assert artifact.test_evaluations == 1
    assert artifact.reported_by == "testbed"
    assert "asr_test" in artifact.metrics


def test_a_finished_grid_starts_no_process_and_other_settings_are_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("optimize.pipeline.process_pool._Worker.start", refuse)
    before = numbers(finished)
    assert run.ablate(yaml_config.validate(AblationConfig, LEARN, "x"), finished) == before
    other = LEARN | {"validation": {"jailbreak": 15}}
    with pytest.raises(
        ConfigError,
        match=r"written-length=1-seed=0/cell\.json .*: validation\.jailbreak is \d+ there and 15 here",
    ):
        run.ablate(yaml_config.validate(AblationConfig, other, "x"), finished)
    damaged = finished / "cells" / "gcg-length=1-seed=0" / "cell.json"
    whole = damaged.read_text()
    damaged.write_text(whole[:-9])
    with pytest.raises(RecordError, match=r"no result .* delete the cell"):
        run.ablate(yaml_config.validate(AblationConfig, LEARN, "x"), finished)
    damaged.write_text(whole)
    unlike = finished / "cells" / "gcg-length=1-seed=0" / "validation" / "numerics.json"
    unlike.write_text(unlike.read_text().replace("float32", "bfloat16"))
    with pytest.raises(
        ConfigError, match=r"references/\w+/numerics\.json .*reasoner\.dtype is 'float32' there and 'bf"
    ):
        run.ablate(yaml_config.validate(AblationConfig, LEARN, "x"), finished)
    unlike.write_text(unlike.read_text().replace("bfloat16", "float32"))


def test_a_loop_is_measured_without_a_search(tmp_path: Path) -> None:
    done = run.ablate(yaml_config.validate(AblationConfig, LOOP, "x"), tmp_path)
    assert done.failures == {}
    exact, blind = done.points
    assert exact.texts == ("Wait, think safely",)
    # A monitor that passes everything defends nothing.
    assert blind.metrics["asr_answer"].value == blind.reference["undefended"]["asr_answer"].value
    assert exact.metrics["asr_answer"].value < blind.metrics["asr_answer"].value
    assert exact.metrics["asr_predicted"].value < blind.metrics["asr_predicted"].value
    assert blind.reference["nothing"] == {} or "recovery_rate" not in blind.metrics
    assert not list(tmp_path.glob("contexts/*"))
    page = (tmp_path / run.REPORT).read_text()
    assert "Attack success rate" in page
    assert "plotly" in page
    assert "src=" not in page.split("<main>")[1]
