"""`safethink-optimize ablate`: plans without loading anything, and the same manners as the other commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from optimize.ablation.config import AblationConfig
from optimize.cli import PROGRAM
from safethink.config import yaml_config
from safethink.config.yaml_config import shipped_config


def test_a_dry_run_prints_the_resolved_config_and_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["ablate", "testbed-length", "--dry-run", "--full", "--seeds", "0", "--axes.search.length", "1", "4"]
    assert PROGRAM.main(argv) == 0
    planned, resolved = yaml.safe_load_all(capsys.readouterr().out)
    config = AblationConfig.model_validate(resolved)
    assert (config.seeds, dict(config.axes)) == ((0,), {"search.length": (1, 4)})
    assert config.methods == yaml_config.load(AblationConfig, shipped_config("ablate/testbed-length")).methods
    assert (planned["cells"], planned["tests"]) == (16, 16)


@pytest.mark.slow
def test_a_dry_run_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert PROGRAM.main(["ablate", "testbed-threshold", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells"] == 20


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["--axes.search.length", "0"], 2)])
def test_help_and_mistakes_load_no_torch(words: list[str], status: int) -> None:
    code = (
        "import sys\nfrom optimize.cli import PROGRAM\n"
        "try:\n    status = PROGRAM.main(sys.argv[1:])\nexcept SystemExit as end:\n    status = end.code or 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\nsys.exit(status)\n"
    )
    argv = [sys.executable, "-c", code, "ablate", "testbed-length", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr


def test_help_lists_the_axes_and_the_methods(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        PROGRAM.main(["ablate", "testbed-max-resamples", "--help"])
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert "--axes.run.defense.max_resamples" in said
    assert "--methods.nothing_injected" in said
    assert "--validation.jailbreak" in said


@pytest.mark.slow
def test_a_base_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: search/testbed-gcg\naxes: {search.length: [1, 2]}\n")
    assert PROGRAM.main(["ablate", str(path), "--dry-run", "--full", "--base.search.steps", "7"]) == 0
    _, resolved = yaml.safe_load_all(capsys.readouterr().out)
    config = AblationConfig.model_validate(resolved)
    assert config.base.search.steps == 7
    assert config.base.name == "testbed-gcg"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("axes: {search.length: [1]}", "base: missing"),
        ("base: testbd-gcg\naxes: {search.length: [1]}", "did you mean 'testbed-gcg'?"),
        ("base: testbed-gcg\naxes: {search.lenght: [1]}", "search.lenght: unknown key, did you mean 'length'?"),
        ("base: testbed-gcg\naxs: {search.length: [1]}", "axs: unknown key, did you mean 'axes'?"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    assert PROGRAM.main(["ablate", str(path), "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert not (tmp_path / "out").exists()
