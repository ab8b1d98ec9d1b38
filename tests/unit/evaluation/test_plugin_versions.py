"""A run's folder is resumed with the same versions of its plug-ins, and refused to others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safethink.config import (
    EntryPointDefenseConfig,
    EntryPointJudgeConfig,
    EntryPointMonitorConfig,
    EvalConfig,
    KeywordMonitorConfig,
    MinMonitorConfig,
    ReasonerConfig,
    RowConfig,
    RunConfig,
    SafeThinkConfig,
    TestbedBenchmarkConfig,
)
from safethink.errors import ConfigError
from safethink.evaluation import folder
from tests.support import plugins

ENTRY_POINTS = """
[safethink.defenses]
careful = third_party:careful
[safethink.judges]
strict = third_party:strict
[safethink.monitors]
lengths = third_party:lengths
"""
VERSIONS = {
    "defense": {"careful": "third_party==1.0"},
    "judge": {"strict": "third_party==1.0"},
    "monitor": {"lengths": "third_party==1.0"},
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "site"
    home.mkdir()
    plugins.install(home, monkeypatch, "", ENTRY_POINTS)
    return home


def config() -> EvalConfig:
    monitor = MinMonitorConfig(members=(KeywordMonitorConfig(), EntryPointMonitorConfig(name="lengths")))
    return EvalConfig(
        run=RunConfig(reasoner=ReasonerConfig(path="testbed"), monitor=monitor),
        benchmarks=(TestbedBenchmarkConfig(prompts="jailbreak"),),
        rows=(RowConfig(name="mine", defense=EntryPointDefenseConfig(name="careful")),),
        judge=EntryPointJudgeConfig(name="strict"),
    )


def begin(out: Path) -> None:
    """A run whose first record is written."""
    folder.claim(out, config())
    (out / folder.RECORDS).write_text("{}\n", encoding="utf-8")


def upgrade(package: Path) -> None:
    metadata = package / "third_party-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text(encoding="utf-8").replace("1.0", "2.0"), encoding="utf-8")


def test_the_version_of_every_plug_in_is_written_down(package: Path, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    assert json.loads((tmp_path / "run" / folder.PLUGINS).read_text(encoding="utf-8")) == VERSIONS
    folder.claim(tmp_path / "run", config())


def test_another_version_of_a_plug_in_is_refused_by_its_name(package: Path, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    upgrade(package)
    said = (
        r"plugins\.json belongs to another run: defense\.careful is 'third_party==1\.0' there and 'third_party==2\.0'"
    )
    with pytest.raises(ConfigError, match=said):
        folder.claim(tmp_path / "run", config())


def test_a_run_older_than_the_versions_goes_on(package: Path, tmp_path: Path) -> None:
    begin(tmp_path / "run")
    (tmp_path / "run" / folder.PLUGINS).unlink()
    upgrade(package)
    folder.claim(tmp_path / "run", config())
    assert not (tmp_path / "run" / folder.PLUGINS).exists()


def test_a_run_that_has_no_record_yet_takes_the_versions_of_today(package: Path, tmp_path: Path) -> None:
    folder.claim(tmp_path / "run", config())
    upgrade(package)
    folder.claim(tmp_path / "run", config())
    assert "third_party==2.0" in (tmp_path / "run" / folder.PLUGINS).read_text(encoding="utf-8")


def test_a_run_without_plug_ins_has_no_list_of_them(tmp_path: Path) -> None:
    plain = config().replace(
        rows=(RowConfig(name="mine", defense=SafeThinkConfig()),),
        judge="testbed",
        run=RunConfig(reasoner=ReasonerConfig(path="testbed")),
    )
    folder.claim(tmp_path, plain)
    assert not (tmp_path / folder.PLUGINS).exists()
