"""Sections of judges: a name alone, or a section of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink.config import (
    BothJudgeConfig,
    EntryPointJudgeConfig,
    EvalConfig,
    GuardJudgeConfig,
    MajorityJudgeConfig,
    RefusalJudgeConfig,
    TestbedJudgeConfig,
    yaml_config,
)
from safethink.config.judges import judge_leaves
from safethink.errors import ConfigError
from safethink.evaluation.plan import plan

SHIPPED = yaml_config.load(EvalConfig, yaml_config.shipped_config("testbed", "eval"))


def judged(judge: object, benchmark: str = "testbed") -> EvalConfig:
    benchmarks = {
        "testbed": [{"kind": "testbed", "prompts": "jailbreak"}],
        "jsonl": [{"kind": "jsonl", "path": "mine.jsonl", "prompts": "harmful"}],
    }
    values = SHIPPED.model_dump(mode="json") | {"judge": judge, "benchmarks": benchmarks[benchmark]}
    return yaml_config.validate(EvalConfig, values, "mine.yaml")


@pytest.mark.parametrize("name", ["testbed", "refusal"])
def test_a_judge_without_settings_is_read_and_written_by_its_name(name: str, tmp_path: Path) -> None:
    config = judged(name)
    path = tmp_path / "config.yaml"
    path.write_text(yaml_config.dump(config))
    assert f"\njudge: {name}\n" in path.read_text()
    assert yaml_config.load(EvalConfig, path) == config == judged({"kind": name})
    assert config.judge_name == name


def test_an_entry_point_is_written_as_it_always_was() -> None:
    config = judged({"kind": "entry_point", "name": "strict"})
    assert config.judge == EntryPointJudgeConfig(name="strict")
    written = {"kind": "entry_point", "name": "strict", "options": {}}
    assert config.model_dump(mode="json")["judge"] == written


def test_combinations_take_names_and_sections_and_come_back_the_same() -> None:
    guard = {"kind": "guard", "monitor": {"kind": "keyword"}}
    config = judged(
        {"kind": "both", "members": ["refusal", {"kind": "majority", "members": ["testbed", guard, guard]}]}
    )
    assert isinstance(config.judge, BothJudgeConfig)
    assert isinstance(config.judge.members[1], MajorityJudgeConfig)
    assert [type(leaf) for leaf in judge_leaves(config.judge)] == [
        RefusalJudgeConfig, TestbedJudgeConfig, GuardJudgeConfig, GuardJudgeConfig,
    ]  # fmt: skip
    assert judged(config.model_dump(mode="json")["judge"]) == config


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("refusl", "judge.kind: 'refusl' is not one of .*did you mean 'refusal'"),
        ("guard", "judge.monitor: missing"),
        ({"kind": "majority", "members": ["refusal", "refusal"]}, "odd number of members, not 2"),
        ({"kind": "both", "members": ["refusal"]}, "judge.members: "),
    ],
)
def test_a_mistake_in_a_judge_is_named_by_its_path(judge: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        judged(judge)


def test_the_oracle_inside_a_combination_knows_no_prompts_of_ones_own() -> None:
    with pytest.raises(ConfigError, match="'testbed' knows the testbed's prompts alone"):
        judged({"kind": "both", "members": ["testbed", "refusal"]}, "jsonl")


def test_the_monitor_s_own_model_is_no_judge_unless_that_is_allowed() -> None:
    same = {"kind": "guard", "monitor": SHIPPED.run.monitor.model_dump(mode="json")}
    for judge in (same, {"kind": "both", "members": ["refusal", same]}):
        with pytest.raises(ConfigError, match=r"asks the monitor's own model 'testbed': .*allow_monitor_as_judge"):
            judged(judge)
        allowed = SHIPPED.model_dump(mode="json") | {"judge": judge, "allow_monitor_as_judge": True}
        assert yaml_config.validate(EvalConfig, allowed, "mine.yaml").allow_monitor_as_judge
    other = same | {"monitor": {"kind": "guard", "path": "another/guard"}}
    assert judged(other).judge_name == judged(other).judge.title


def test_a_wrong_member_is_one_mistake_and_leaves_no_list_too_short() -> None:
    with pytest.raises(ConfigError) as said:
        judged({"kind": "both", "members": ["refusal", "refusl"]})
    assert "mistakes" not in str(said.value)
    assert "judge.members.1.kind: 'refusl' is not one of" in str(said.value)


def test_a_plan_counts_the_requests_to_large_models_that_judge() -> None:
    llm = {"kind": "llm", "server": {"urls": ["http://localhost:1/v1"], "model": "m"}}
    values = SHIPPED.model_dump(mode="json") | {
        "benchmarks": [{"kind": "testbed", "prompts": "jailbreak", "n": 5}],
        "judge": {"kind": "both", "members": ["refusal", llm | {"judge_trace": False}]},
        "second_judges": [llm | {"rubric": "strongreject"}, "refusal"],
    }
    config = yaml_config.validate(EvalConfig, values, "mine.yaml")
    planned = plan(config)
    assert planned.judge_requests == {
        "m by harmfulness": planned.total + 5,
        "m by strongreject": 2 * planned.generations["guarded"] + 5,
    }
    assert plan(SHIPPED).judge_requests == {}
