"""The learning command line: plans without loading anything, and the same manners as the other one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from optimize.cli import PROGRAM
from optimize.config import BeamConfig, RelaxedConfig, SearchConfig
from optimize.pipeline.dry_run import plan
from safethink.config import yaml_config
from safethink.config.yaml_config import shipped_config


@pytest.fixture
def config() -> SearchConfig:
    return yaml_config.load(SearchConfig, shipped_config("search/testbed-gcg"))


def test_a_dry_run_prints_the_resolved_config_and_what_it_takes(capsys: pytest.CaptureFixture[str], config) -> None:
    words = ["--dry-run", "--full", "--probe", "False", "--search.length", "6"]
    assert PROGRAM.main(["search", "testbed-gcg", *words]) == 0
    planned, resolved = yaml.safe_load_all(capsys.readouterr().out)
    longer = config.search.replace(length=6)
    assert SearchConfig.model_validate(resolved) == config.replace(search=longer)
    assert planned["candidates"] == 60 * 96


@pytest.mark.parametrize("words", [("--search.kind", "beam"), ("--search.kind=beam",)])
def test_a_kind_is_a_flag_like_any_other_and_brings_flags_of_its_own(capsys, config, words: tuple[str, ...]) -> None:
    dry = ["--dry-run", "--full", "--probe", "False"]
    assert PROGRAM.main(["search", "testbed-gcg", "--search.beams", "3", *words, *dry]) == 0
    _, resolved = yaml.safe_load_all(capsys.readouterr().out)
    expected = BeamConfig(beams=3, steps=config.search.steps, candidates=config.search.candidates)
    assert SearchConfig.model_validate(resolved).search == expected


def test_a_plan_follows_the_config(config: SearchConfig) -> None:
    half = config.replace(search=config.search.replace(steps=config.search.steps // 2))
    assert plan(half).scored_tokens < 0.6 * plan(config).scored_tokens
    assert plan(half).generations == plan(config).generations
    rows = config.replace(search=RelaxedConfig(length=config.search.length, steps=config.search.steps))
    assert plan(rows).candidates == config.search.steps
    rounds = config.replace(contexts=config.contexts.replace(refresh_every_steps=20))
    assert plan(rounds).generations["refreshing"] > 2 * config.contexts.prompts
    assert plan(rows).scored_tokens < plan(config).scored_tokens / 10
    elsewhere = config.run.reasoner.replace(path="some/model")
    planned = plan(config.replace(run=config.run.replace(reasoner=elsewhere)))
    assert planned.seconds is None
    assert planned.memory_gib is None
    assert planned.decoded_tokens > plan(config).decoded_tokens


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["serch"], "did you mean 'search'?"),
        (["search"], "safethink-optimize search takes a YAML file"),
        (["search", "testbd-gcg"], "did you mean 'testbed-gcg'?"),
        (["search", "testbed-gcg", "--search.lenght", "3"], "did you mean '--search.length'?"),
        (["search", "testbed-gcg", "--search.momentum", "1"], "--search.momentum: input should be less than 1"),
        (["search", "testbed-gcg", "--search.kind", "bem"], "--search.kind: 'bem' is not one of gcg"),
        (["search", "testbed-gcg", "--search.kind"], "--search.kind"),
        (
            ["study", "testbed", "--space.search.length.kind", "float"],
            "space.base: search.length: input should be",
        ),
        (["testbed", "--world.seed", "x"], "--world.seed"),
        (["demo", "--where", "x"], "--where"),
    ],
)
def test_mistakes_are_one_line_and_status_2(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert PROGRAM.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["search", "--help"], ["testbed", "--help"], ["demo", "--help"]])
def test_help_loads_no_torch(argv: list[str]) -> None:
    code = (
        "import sys\nfrom optimize.cli import PROGRAM\n"
        "try:\n    PROGRAM.main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: safethink-optimize" in done.stdout


def test_a_dry_run_in_json_tries_two_steps_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    small = ["--search.candidates", "8", "--contexts.max_contexts", "4", "--contexts.harmless_prompts", "2"]
    words = ["--budget", "1h", *small, "--out", str(tmp_path / "none"), "--dry-run", "--json"]
    assert PROGRAM.main(["search", "testbed-gcg", *words]) == 0
    captured = capsys.readouterr()
    planned = json.loads(captured.out)
    assert planned["seconds"] > planned["search"]["seconds"] >= 0
    assert planned["search"]["steps"] == 60
    assert f"{planned['budget_tokens']:,} forwarded tokens" in captured.err
    assert "1 h are about" in captured.err
    assert "search.steps = 60 ends it sooner" in captured.err
    assert not (tmp_path / "none").exists()
