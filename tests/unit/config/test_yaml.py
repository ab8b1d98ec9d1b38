"""YAML and flags become frozen models, and every mistake is named by its path."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optimize.config import PhrasesConfig, SearchConfig
from safethink.cli.parsing import parse_with_config
from safethink.cli.program import CommandFlags
from safethink.config import (
    EvalConfig,
    GuardRefuseConfig,
    ReasonerConfig,
    ResampleOnlyConfig,
    RunConfig,
    SafeThinkConfig,
    yaml_config,
)
from safethink.errors import ConfigError, MissingFileError

RUN = {"reasoner": {"path": "somewhere"}, "defense": {"kind": "resample_only", "max_resamples": 2}}
EVAL = {
    "run": RUN,
    "benchmarks": [{"kind": "testbed", "prompts": "jailbreak"}, {"kind": "jsonl", "path": "x", "prompts": "harmful"}],
    "rows": [{"name": "a", "defense": {"kind": "none"}}, {"name": "b", "defense": {"kind": "safethink"}}],
    "judge": "refusal",
}


class Switches(CommandFlags):
    """What a command over a run may take beside it."""


@pytest.fixture
def write(tmp_path: Path):
    def write(values: object) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def complaint(schema: type, path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        yaml_config.load(schema, path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def flag_complaint(schema: type, *argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_with_config(Switches, schema, "run", "prog", argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_a_frozen_model_with_defaults(write) -> None:
    config = yaml_config.load(RunConfig, write(RUN))
    assert config.defense == ResampleOnlyConfig(max_resamples=2)
    assert config.limits.max_step_tokens == 256
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_all_mistakes_are_named_at_once_by_their_yaml_path(write) -> None:
    wrong = RUN | {
        "defense": {"kind": "resample_only", "max_resample": 2, "threshold": 7},
        "batch_size": "many",
        "x": 1,
    }
    assert complaint(RunConfig, write(wrong)) == (
        "4 mistakes: "
        "defense.threshold: input should be less than or equal to 1, not 7; "
        "defense.max_resample: unknown key, did you mean 'max_resamples'?; "
        "batch_size: input should be a valid integer, unable to parse string as an integer, not 'many'; "
        "x: unknown key"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"defense": {"kind": "safethnk"}}, "defense.kind: 'safethnk' is not one of none, always, guard_refuse, "),
        ({"defense": {"kind": "safethnk"}}, ", did you mean 'safethink'?"),
        ({"defense": {"threshold": 0}}, "defense.kind: missing"),
        ({"reasoner": {}}, "reasoner.path: missing"),
        ({"reasoner": {"path": "p", "dtype": "int4"}}, "reasoner.dtype: input should be 'auto', "),
        ({"reasonner": {"path": "p"}}, "reasonner: unknown key, did you mean 'reasoner'?"),
        ({"monitor": {"kind": "guard", "prest": "s"}}, "monitor.prest: unknown key, did you mean 'preset'?"),
        (
            {"thought": {"family": "qwen4"}},
            "thought.family: no family of reasoners is called 'qwen4'; known are ",
        ),
        ({"limits": 3}, "limits: input should be a valid dictionary"),
    ],
)
def test_a_mistake_says_where_and_what(write, change: dict[str, object], expected: str) -> None:
    assert expected in complaint(RunConfig, write(RUN | change))


def test_mistakes_inside_lists_carry_their_index(write) -> None:
    rows = [{"name": "a", "defense": {"kind": "none"}}, {"name": "b", "defense": {"kind": "safethink", "treshold": 0}}]
    said = complaint(EvalConfig, write(EVAL | {"rows": rows}))
    assert said == "rows.1.defense.treshold: unknown key, did you mean 'threshold'?"
    said = complaint(EvalConfig, write(EVAL | {"benchmarks": [{"kind": "jsonl", "path": "x", "promts": "harmful"}]}))
    assert "benchmarks.0.promts: unknown key, did you mean 'prompts'?" in said
    assert "benchmarks.0.prompts: missing" in said


def test_a_rule_over_several_keys_is_reported_too(write) -> None:
    twice = [{"name": "a", "defense": {"kind": "none"}}] * 2
    assert complaint(EvalConfig, write(EVAL | {"rows": twice})) == "two rows are called 'a'"
    said = complaint(EvalConfig, write(EVAL | {"judge": "testbed"}))
    assert said == "judge: 'testbed' knows the testbed's prompts alone, not those of 'x'; use 'refusal'"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reasoner: [", "not YAML: "),
        ("a: b: c", "not YAML: mapping values are not allowed here in line 1"),
        ("- a", "expected keys such as reasoner, thought, monitor at the top level"),
        ("", "expected keys such as"),
        ("reasoner: !!python/object/apply:os.getcwd []", "not YAML: could not determine a constructor"),
    ],
)
def test_what_is_no_mapping_is_refused(write, text: str, expected: str) -> None:
    assert expected in complaint(RunConfig, write(text))


def test_binary_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert complaint(RunConfig, tmp_path / "binary.yaml") == "not UTF-8 text"
    with pytest.raises(MissingFileError, match=r"absent\.yaml"):
        yaml_config.load(RunConfig, tmp_path / "absent.yaml")


@pytest.mark.slow
@given(
    st.integers(0, 9),
    st.floats(-1, 1),
    st.sampled_from(["keep_last", "best", "refuse"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
)
def test_a_dumped_config_loads_as_itself(steps: int, threshold: float, fallback: str, prefix: str) -> None:
    defense = {"kind": "safethink", "max_steered_steps": steps, "threshold": threshold, "fallback": fallback}
    config = SearchConfig.model_validate({"run": RUN | {"defense": defense, "prefix": prefix}})
    again = yaml_config.validate(SearchConfig, yaml.safe_load(yaml_config.dump(config)), "dump")
    assert again == config


def test_flags_override_the_file(write) -> None:
    path = str(write(RUN))
    argv = ("--defense.max-resamples", "4", path, "--seed=3")
    with pytest.raises(ConfigError, match="before any other argument"):
        parse_with_config(Switches, RunConfig, "run", "prog", argv)
    argv = ("--json", path, "--defense.max-resamples", "4", "--seed=3", "--monitor.path", "elsewhere")
    switches, config = parse_with_config(Switches, RunConfig, "run", "prog", argv)
    assert switches.as_json
    assert config.defense == ResampleOnlyConfig(max_resamples=4)
    assert (config.seed, config.reasoner.path) == (3, "somewhere")
    assert config.monitor.model_dump()["path"] == "elsewhere"


def test_flags_reach_into_lists(write) -> None:
    argv = (
        str(write(EVAL)),
        "--rows.1.defense.max_steered_steps",
        "1",
        "--benchmarks.0.n",
        "7",
        "--world.prompts_seed",
        "5",
    )
    _, config = parse_with_config(Switches, EvalConfig, "eval", "prog", argv)
    assert config.rows[1].defense == SafeThinkConfig(max_steered_steps=1)
    assert (config.benchmarks[0].model_dump()["n"], config.world.prompts_seed) == (7, 5)


def test_wrong_flags_are_one_line_that_names_them(write) -> None:
    run, evaluation = str(write(RUN)), write(RUN).with_name("eval.yaml")
    evaluation.write_text(yaml.safe_dump(EVAL), encoding="utf-8")
    said = flag_complaint(RunConfig, run, "--defense.max_resample", "4")
    assert said == "there is no flag --defense.max_resample, did you mean '--defense.max_resamples'?"
    assert "--seed: input should be a valid integer" in flag_complaint(RunConfig, run, "--seed", "x")
    said = flag_complaint(RunConfig, run, "--batch_size", "0")
    assert said == "--batch_size: input should be greater than or equal to 1, not '0'"
    said = flag_complaint(EvalConfig, str(evaluation), "--run.sampling.top_p", "2")
    assert said == "--run.sampling.top_p: input should be less than or equal to 1, not '2'"
    said = flag_complaint(RunConfig, run, "--defense.kind", "nothing")
    assert said.startswith("--defense.kind: 'nothing' is not one of none, ")


def test_help_lists_the_flags_with_the_values_of_the_file(write, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_with_config(Switches, RunConfig, "run", "prog", [str(write(RUN | {"seed": 1234})), "--help"])
    assert end.value.code in (0, None)
    said = capsys.readouterr().out
    assert "--defense.max_resamples" in said
    assert "1234" in said


def test_an_override_sets_values_by_their_dotted_keys() -> None:
    base = SearchConfig.model_validate({"run": RUN})
    changes = {"search.length": 8, "run.defense.max_resamples": 4, "objective.racing.keep": 3}
    changed = yaml_config.override(base, changes, "axes")
    assert changed.search.length == 8
    assert changed.run.defense == ResampleOnlyConfig(max_resamples=4)
    assert changed.objective.racing is not None
    assert changed.objective.racing.keep == 3
    assert yaml_config.override(changed, {}, "axes") == changed


def test_a_section_of_another_kind_keeps_what_both_kinds_have() -> None:
    base = yaml_config.override(
        SearchConfig.model_validate({"run": RUN}), {"search.length": 7, "search.top_k": 9}, "axes"
    )
    other = yaml_config.override(base, {"search.pool": ["Wait"], "search.kind": "phrases"}, "axes")
    assert other.search == PhrasesConfig(length=7, pool=("Wait",))
    defense = yaml_config.override(base, {"run.defense.kind": "guard_refuse"}, "axes").run.defense
    assert defense == GuardRefuseConfig()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search.lenght": 2}, "axes: search.lenght: unknown key, did you mean 'length'?"),
        ({"serach.length": 2}, "axes: serach: unknown key, did you mean 'search'?"),
        ({"search.kind": "randm"}, "axes: search.kind: 'randm' is not one of .*, did you mean 'random'?"),
        ({"search.kind": "random", "search.top_k": 4}, "axes: search.top_k: unknown key"),
        ({"search.length": 0}, "axes: search.length: input should be greater than or equal to 1, not 0"),
        ({"seed.x": 1}, "axes: seed: input should be a valid integer"),
    ],
)
def test_an_override_that_does_not_fit_is_named(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        yaml_config.override(SearchConfig.model_validate({"run": RUN}), changes, "axes")


def test_a_replaced_value_is_validated_and_the_rest_is_kept() -> None:
    config = RunConfig(reasoner=ReasonerConfig(path="p"), seed=3)
    changed = config.replace(batch_size=2)
    assert (changed.batch_size, changed.seed, changed.reasoner) == (2, 3, config.reasoner)
    assert changed.model_fields_set == {"reasoner", "seed", "batch_size"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 0}, "RunConfig: batch_size: input should be greater than or equal to 1, not 0"),
        ({"seed": "four"}, "RunConfig: seed: input should be a valid integer"),
        ({"sed": 1}, "RunConfig: sed: unknown key, did you mean 'seed'"),
    ],
)
def test_a_replaced_value_that_does_not_fit_is_named(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        RunConfig(reasoner=ReasonerConfig(path="p")).replace(**changes)


def test_a_section_is_not_changed_without_validation() -> None:
    # In the tests beartype refuses it first, outside them the method itself does.
    with pytest.raises(Exception, match=r"use replace|Expected type"):
        RunConfig(reasoner=ReasonerConfig(path="p")).model_copy(update={"seed": "four"})  # pyright: ignore[reportArgumentType]
