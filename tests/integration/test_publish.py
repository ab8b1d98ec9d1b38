"""From an evaluation on `test` to the hub and back: what is published is what was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from optimize.cli import PROGRAM
from safethink import prefix
from safethink.config import EvalConfig, OracleMonitorConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.evaluation import exact_asr, holdout, runner
from safethink.evaluation.summary import Summary
from safethink.models.hashes import chat_template_hash, tokenizer_hash
from safethink.prefix import Identity, Prefix, PrefixArtifact
from safethink.testbed.world import World
from tests.support import planted, stub_hub
from tests.support.stub_hub import StubHub
from tests.support.timeless import timeless

pytestmark = pytest.mark.slow

TEXT = "doubt calm stop again"
REPO = "ada/kind-words"


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StubHub]:
    monkeypatch.setattr(exact_asr, "make_world", lambda config: World.make(planted.SEED))
    with stub_hub.reached(monkeypatch, tmp_path / "cache") as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An artifact as a search leaves it, without a test."""
    tokenizer = planted.tokenizer()
    made = PrefixArtifact(
        name="learned",
        prefixes=(Prefix(text=TEXT, token_ids=tuple(tokenizer.encode(TEXT, add_special_tokens=False))),),
        tokenizer=Identity(name="planted", sha256=tokenizer_hash(tokenizer)),
        chat_template=Identity(name="planted", sha256=chat_template_hash(tokenizer)),
    )
    prefix.save(made, tmp_path / "artifact", None, "a card")
    return tmp_path / "artifact"


def evaluated(on_trial: str, out: Path) -> Path:
    """A finished run of the shipped evaluation with few prompts and rows, watched by the oracle."""
    shipped = yaml_config.load(EvalConfig, shipped_config("eval/testbed"))
    changes = {
        "run": shipped.run.replace(monitor=OracleMonitorConfig()),
        "benchmarks": tuple(each.replace(n=16) for each in shipped.benchmarks),
        "rows": tuple(row for row in shipped.rows if row.name in ("undefended", "safethink_learned")),
        "prefix": on_trial,
        "depth_curve": (),
    }
    runner.evaluate(shipped.replace(**changes), out, planted.reasoner((TEXT,)))
    return out


def test_what_was_measured_is_published_and_loads_again(folder: Path, online: StubHub, tmp_path: Path, capsys) -> None:
    assert PROGRAM.main(["publish", str(folder), "--to", REPO]) == 2
    assert "has no record of `test`" in capsys.readouterr().err
    run = evaluated(str(folder), tmp_path / "run")
    before = (folder / prefix.JSON_FILE).read_bytes()
    argv = ["publish", str(folder), "--to", REPO, "--evaluation", str(run), "--json"]
    assert PROGRAM.main([*argv, "--dry_run"]) == 0
    assert (folder / prefix.JSON_FILE).read_bytes() == before
    assert online.repositories == {}
    capsys.readouterr()
    assert PROGRAM.main(argv) == 0
    commit = json.loads(capsys.readouterr().out)["commit"]
    assert PROGRAM.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == {
        "to": REPO,
        "files": ["README.md", "search.jsonl", "prefix.schema.json", holdout.LOG, "prefix.json"],
        "changed": [],
        "commit": commit,
    }
    loaded = prefix.load(f"{REPO}@{commit}", planted.tokenizer())
    summary = json.loads((run / "summary.json").read_text())
    for name, row in (("asr_test", "safethink_learned"), ("asr_undefended_test", "undefended")):
        assert loaded.metrics[name].model_dump() == summary["rows"][row]["asr_answer"]
    assert loaded.metrics["asr_change_test"].high < 0
    assert (loaded.test_evaluations, loaded.reported_by) == (1, "testbed")


def test_a_published_prefix_is_evaluated_and_the_look_counted(folder: Path, online: StubHub, tmp_path: Path) -> None:
    run = evaluated(str(folder), tmp_path / "run")
    assert PROGRAM.main(["publish", str(folder), "--to", REPO, "--evaluation", str(run)]) == 0
    place = f"{REPO}@{online.repositories[REPO].commits[-1].oid}"
    again = evaluated(place, tmp_path / "again")
    summary, before = (Summary.model_validate_json((each / "summary.json").read_text()) for each in (again, run))
    assert summary.prefix.path == place
    assert summary.prefix.test_evaluations == 2
    assert timeless(summary)["rows"] == timeless(before)["rows"]


def test_the_command_line_finds_the_hub_by_its_own_variables(folder: Path, online: StubHub, tmp_path: Path) -> None:
    run = evaluated(str(folder), tmp_path / "run")
    assert PROGRAM.main(["publish", str(folder), "--to", REPO, "--evaluation", str(run)]) == 0
    commit = online.repositories[REPO].commits[-1].oid
    here = {"HF_ENDPOINT": online.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}

    def show(place: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("safethink")), "prefix", "show", place, "--json"]
        return subprocess.run(command, env=os.environ | here, capture_output=True, text=True, check=False)

    shown = show(f"{REPO}@{commit}")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["prefixes"][0]["text"] == TEXT
    refused = show(f"hub:{REPO}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (f"safethink: hub:{REPO} is not pinned to a commit; now it would be hub:{REPO}@{commit}\n")
