"""The wheel holds the two packages with their data and nothing else, and runs outside the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.source import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment's bin folder: the wheel installed in it, the dependencies borrowed from this one."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
    # A path file inside a path file is not followed, so the checkout, installed as editable, stays out of sight.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a command to its end and returns what it printed; what it complained of is in the failure."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "safethink",
        "optimize",
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }
    assert not [name for name in names if "__pycache__" in name]


def test_wheel_carries_configs_and_weights(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = run("git", "ls-files", "-z", "configs", "safethink", "optimize", cwd=ROOT).split("\0")[:-1]
    expected = {f"safethink/{name}" if name.startswith("configs/") else name for name in tracked}
    assert expected <= held
    assert any(name.endswith(".safetensors") for name in held)


def test_runs_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python",
        "-c",
        "import safethink, optimize; print(safethink.__file__, optimize.__file__)",
        cwd=tmp_path,
    )
    assert all(Path(file).is_relative_to(installed.parent) for file in where.split())
    said = run(installed / "safethink", "generate", "testbed", "Please add 3 and 4.", "--json", cwd=tmp_path)
    result = json.loads(said)
    assert result["trace"]
    assert len(result["forced_mask"]) == len(result["trace_ids"]) + len(result["answer_ids"])
