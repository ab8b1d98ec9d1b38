"""Flags set exactly what they name: values, lists, dictionaries, truth values, None, kinds and null sections."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml

from optimize.ablation.config import AblationConfig
from optimize.cli import PROGRAM as LEARNING
from optimize.commands.learn import named_after_its_method
from optimize.config import RacingConfig, SearchConfig
from safethink.cli.flags import POSITIONAL
from safethink.cli.main import PROGRAM as RUNNING
from safethink.cli.parsing import parse, parse_with_config
from safethink.cli.program import CommandFlags, RunFlags, metric_lines
from safethink.config import EvalConfig, MinMonitorConfig, OracleMonitorConfig, RunConfig, SafeThinkConfig
from safethink.config.yaml_config import shipped_config
from safethink.errors import ConfigError
from safethink.prefix.artifact import Metric


class Asking(CommandFlags):
    """A command with a word of its own."""

    prompt: Annotated[str, POSITIONAL]
    """What to ask."""
    tags: tuple[str, ...] = ()
    """Any number."""


def searched(*words: str) -> SearchConfig:
    return parse_with_config(RunFlags, SearchConfig, "search", "prog", ["testbed-gcg", *words])[1]


def ran(*words: str) -> RunConfig:
    return parse_with_config(Asking, RunConfig, "run", "prog", ["testbed", "a prompt", *words])[1]


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["--search.length", "6"], "search.length", 6),
        (["--search.length=6"], "search.length", 6),
        (["--search.pair-share", "0.5"], "search.pair_share", 0.5),
        (["--search.init", "None"], "search.init", None),
        (["--search.init", "Nonetheless"], "search.init", "Nonetheless"),
        (["--run.defense.threshold", "-0.5"], "run.defense.threshold", -0.5),
        (["--run.defense.threshold", "-1e-3"], "run.defense.threshold", -0.001),
        (["--run.defense.keep_prefix"], "run.defense.keep_prefix", True),
        (["--run.defense.keep_prefix", "--seed", "3"], "run.defense.keep_prefix", True),
        (["--run.defense.keep_prefix", "False"], "run.defense.keep_prefix", False),
        (["--no-run.defense.keep_prefix"], "run.defense.keep_prefix", False),
        (["--run.defense.no-keep_prefix"], "run.defense.keep_prefix", False),
        (["--contexts.benchmarks", "harm", "a.jsonl", "jail", "b.jsonl"], "contexts.benchmarks.jail", "b.jsonl"),
        (["--contexts.benchmarks", "{harm: a.jsonl}"], "contexts.benchmarks.harm", "a.jsonl"),
        (["--objective.racing.keep", "3"], "objective.racing.keep", 3),
        (["--objective.racing", "{}"], "objective.racing.keep", RacingConfig().keep),
        (["--selection.judge.kind", "oracle", "--selection.judge.f1=0.9"], "selection.judge.f1", 0.9),
        (["--search.kind", "soft", "--search.harden", "true"], "search.harden", True),
        (["--search.kind=phrases", "--search.pool", "Wait", "Stop now"], "search.pool", ["Wait", "Stop now"]),
        (["--search.kind=phrases", "--search.slots", "[Stop, Wait]", "['', ' now']"], "search.slots.1.1", " now"),
    ],
)
def test_a_flag_sets_what_it_names(words: list[str], key: str, value: object) -> None:
    found: Any = searched(*words).model_dump(mode="json")
    for step in key.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    assert found == value


def test_nothing_else_changes() -> None:
    file, changed = searched(), searched("--search.length", "6")
    assert changed.search.length == 6
    assert changed.model_dump() | {"search": None} == file.model_dump() | {"search": None}
    assert changed.search.model_dump() | {"length": 0} == file.search.model_dump() | {"length": 0}


def test_the_prompt_may_stand_anywhere_and_a_switch_does_not_swallow_it() -> None:
    argv = ["testbed", "--defense.keep_prefix", "what?", "--tags", "a", "b", "--json"]
    flags, config = parse_with_config(Asking, RunConfig, "run", "prog", argv)
    assert (flags.prompt, flags.tags, flags.as_json) == ("what?", ("a", "b"), True)
    assert config.defense == SafeThinkConfig(keep_prefix=True)


def test_members_of_a_combination_are_flags_too() -> None:
    members = ["{kind: oracle, miss_rate: 0.1}", "{kind: constant}"]
    monitor = ran("--monitor.kind", "min", "--monitor.members", *members).monitor
    assert isinstance(monitor, MinMonitorConfig)
    assert monitor.members[0] == OracleMonitorConfig(miss_rate=0.1)


def test_axes_are_read_as_yaml_and_keys_with_dots_stay_whole() -> None:
    argv = ["testbed-threshold", "--axes.run.defense.threshold", "-0.5", "0.0", "1e-3"]
    config = parse_with_config(RunFlags, AblationConfig, "ablate", "prog", argv)[1]
    assert dict(config.axes) == {"run.defense.threshold": (-0.5, 0.0, 0.001)}
    argv = ["testbed-threshold", "--axes", "{search.length: [1, 2]}"]
    config = parse_with_config(RunFlags, AblationConfig, "ablate", "prog", argv)[1]
    assert dict(config.axes) == {"search.length": (1, 2)}


def test_a_key_with_a_hyphen_of_its_own_is_a_flag(tmp_path: Path) -> None:
    methods: dict[str, Any] = {"methods": {"hill-climb": {"set": {"search.kind": "evolution"}}}, "controls": []}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(shipped_config("ablate/testbed-length").read_text()) | methods))
    argv = [str(file), "--methods.hill-climb.warm_start"]
    config = parse_with_config(RunFlags, AblationConfig, "ablate", "prog", argv)[1]
    assert config.methods["hill-climb"].warm_start


def test_elements_of_lists_change_their_kind() -> None:
    argv = ["testbed", "--rows.1.defense.kind", "safethink", "--rows.1.defense.max_resamples", "2"]
    config = parse_with_config(RunFlags, EvalConfig, "eval", "prog", argv)[1]
    assert config.rows[1].defense == SafeThinkConfig(max_resamples=2)
    assert config.rows[0].defense.kind == "none"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--search.lenght", "3"], "there is no flag --search.lenght, did you mean '--search.length'?"),
        (["--json", "--search.length"], "--search.length: expected one argument"),
        (["--search.length", "0"], "--search.length: input should be greater than or equal to 1, not '0'"),
        (["--search.kind", "beem"], "did you mean 'beam'?"),
        (["--selection.judge.path", "x"], "there is no flag --selection.judge.path"),
        (["--objective.racing.kep", "3"], "did you mean '--objective.racing.keep'?"),
        (["--objective.racing", "{kep: 3}"], "--objective.racing.kep: unknown key, did you mean 'keep'?"),
        (["--contexts.benchmarks", "a", "b", "c"], "'c' has no value"),
        (["--run.defense.keep_prefix=maybe"], "--run.defense.keep_prefix: input should be a valid boolean"),
        (["--no-search.length", "3"], "there is no flag --no-search.length"),
        (["--search.pool", "Wait"], "there is no flag --search.pool"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_a_flag_that_does_not_fit_is_named_on_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        searched(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_required_and_nested_flags_of_a_command_without_configuration() -> None:
    with pytest.raises(ConfigError, match="required: PROMPT"):
        parse(Asking, "prog", ["--tags", "a"])
    assert parse(Asking, "prog", ["what?", "--tags=a"]).tags == ("a",)


def helped(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        LEARNING.main(list(argv))
    assert end.value.code in (0, None)
    return capsys.readouterr().out


def test_help_shows_all_kinds_and_null_sections_and_one_spelling(capsys) -> None:
    said = helped(capsys, "search", "testbed-gcg", "--help")
    kinds = re.search(r"--search\.kind \{([\w,]+)\}", said)
    assert kinds is not None
    assert set(kinds[1].split(",")) >= {"gcg", "evolution", "beam", "relaxed", "phrases", "random", "unigram", "soft"}
    assert "--objective.racing.keep INT" in said
    assert "--selection.judge.kind {guard," in said
    assert "--dry-run" in said
    assert "--dry_run" not in said


def test_help_shows_a_choice_by_name_as_the_default_of_its_kind(capsys) -> None:
    with pytest.raises(SystemExit):
        RUNNING.main(["evaluate", "testbed", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"--judge\.kind \{testbed,refusal,[^}]*entry_point[^}]*\} [^(]*\(default: testbed\)", said)


@pytest.mark.parametrize("columns", [60, 100])
def test_help_is_as_wide_as_the_terminal(capsys, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    LEARNING.main(["--help"])
    # Examples are copied, and so stay whole.
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  safethink")]
    assert columns - 20 < max(map(len, lines)) <= columns
    prose = helped(capsys, "search", "--help").splitlines()
    assert max(len(line) for line in prose if "--" not in line) <= columns


@pytest.mark.parametrize("spelling", ["--dry-run", "--dry_run"])
def test_a_dry_run_prints_the_plan_and_in_full_the_configuration(capsys, spelling: str) -> None:
    assert LEARNING.main(["search", "testbed-gcg", spelling]) == 0
    (planned,) = yaml.safe_load_all(capsys.readouterr().out)
    assert planned["candidates"] == 60 * 96
    assert LEARNING.main(["search", "testbed-gcg", spelling, "--full", "--search.kind", "beam"]) == 0
    _, resolved = yaml.safe_load_all(capsys.readouterr().out)
    assert (resolved["search"]["kind"], resolved["name"]) == ("beam", "testbed-beam")


def test_an_artifact_is_named_after_the_method_that_found_it_unless_it_was_named() -> None:
    file = searched()
    assert named_after_its_method(file, searched("--search.kind", "beam")).name == "testbed-beam"
    assert named_after_its_method(file, searched("--search.length", "6")).name == "testbed-gcg"
    assert named_after_its_method(file, searched("--search.kind", "beam", "--name", "mine")).name == "mine"


def test_a_name_of_another_section_lists_the_section_and_never_suggests_what_was_typed(capsys) -> None:
    assert LEARNING.main(["search", "testbed"]) == 2
    err = capsys.readouterr().err
    assert len(err) < 400
    assert "did you mean 'testbed'?" not in err
    assert "testbed-gcg" in err
    assert "qwen3" not in err


def test_a_shipped_name_of_another_folder_is_still_found() -> None:
    assert shipped_config("search/testbed-gcg", "ablate").name == "testbed-gcg.yaml"


def test_metrics_stand_in_columns_however_long_their_names_are() -> None:
    metric = Metric(value=0.5, low=0.25, high=0.75, n=8)
    lines = metric_lines({"recovery_fall_validation_to_test": metric, "lift": metric})
    assert [line.index("0.500") for line in lines] == [34, 34]
    assert metric_lines({}) == []


def test_a_prefix_is_shown_by_its_text_and_what_decides(capsys, tmp_path: Path) -> None:
    assert RUNNING.main(["prefix", "show", "wait-think-safely"]) == 0
    short = capsys.readouterr().out
    assert "Wait, think safely" in short
    assert len(short.splitlines()) < 10
    assert RUNNING.main(["prefix", "show", "wait-think-safely", "--full"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["prefixes"][0]["text"] == "Wait, think safely"


def test_a_check_of_a_prefix_is_told_to_machines_too(capsys) -> None:
    assert RUNNING.main(["prefix", "verify", "wait-think-safely", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": "wait-think-safely", "reasoner": "testbed", "transferred": False}
