"""A run's folder is made once, and refused to anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import EvalConfig, NoneConfig, ReasonerConfig, RowConfig, RunConfig, TestbedBenchmarkConfig
from safethink.errors import ConfigError, RecordError
from safethink.evaluation.folder import claim

CONFIG = EvalConfig(
    run=RunConfig(reasoner=ReasonerConfig(path="testbed")),
    benchmarks=(TestbedBenchmarkConfig(prompts="jailbreak", n=1),),
    rows=(RowConfig(name="undefended", defense=NoneConfig()),),
)


def test_a_folder_of_other_files_is_no_home_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "search.json").touch()
    with pytest.raises(ConfigError, match=r"holds other files and no config\.yaml: use another --out"):
        claim(tmp_path, CONFIG)
    assert [file.name for file in tmp_path.iterdir()] == ["search.json"]


def test_a_folder_of_folders_is_one(tmp_path: Path) -> None:
    (tmp_path / "learning").mkdir()
    claim(tmp_path, CONFIG)
    assert (tmp_path / "config.yaml").is_file()


def test_a_file_is_no_home_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(RecordError, match="notes: a file, where a folder is to be"):
        claim(tmp_path / "notes", CONFIG)


def test_a_run_that_has_no_record_yet_has_no_claim(tmp_path: Path) -> None:
    claim(tmp_path, CONFIG)
    claim(tmp_path, CONFIG.replace(prefix="text:Hmm"))
    assert "text:Hmm" in (tmp_path / "config.yaml").read_text()
