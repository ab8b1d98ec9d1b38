"""Every YAML that ships loads, by name and by path, and what it names is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from optimize.ablation.config import AblationConfig
from optimize.ablation.grid import expand
from optimize.config import CollectConfig, SearchConfig
from optimize.monitors.config import TrainMonitorConfig
from optimize.reasoners.config import ReasonerTrainingConfig
from optimize.study.config import StudyConfig
from safethink import prefix
from safethink.config import (
    CalibrateConfig,
    CombinationSection,
    EvalConfig,
    GuardMonitorConfig,
    JudgeCheckConfig,
    RunConfig,
    yaml_config,
)
from safethink.config.yaml_config import configs_folder, shipped_config, shipped_names
from safethink.errors import MissingFileError
from safethink.models.shipped import ADAPTERS

Config = (
    RunConfig
    | EvalConfig
    | CollectConfig
    | SearchConfig
    | AblationConfig
    | StudyConfig
    | TrainMonitorConfig
    | ReasonerTrainingConfig
    | JudgeCheckConfig
)

SCHEMAS: dict[str, type[Config]] = {
    "ablate": AblationConfig,
    "calibrate": CalibrateConfig,
    "run": RunConfig,
    "contexts": CollectConfig,
    "eval": EvalConfig,
    "judge": JudgeCheckConfig,
    "learning": CollectConfig,
    "monitor": TrainMonitorConfig,
    "reasoner": ReasonerTrainingConfig,
    "search": SearchConfig,
    "study": StudyConfig,
}


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_config_loads(name: str) -> None:
    config = yaml_config.load(SCHEMAS[name.partition("/")[0]], shipped_config(name))
    if isinstance(config, AblationConfig):
        assert all(cell.config.run.prefix for cell in expand(config))
    if isinstance(config, JudgeCheckConfig):
        assert config.judge.title
        return
    if isinstance(config, ReasonerTrainingConfig):
        assert "/" in config.base.path
        return
    holder = config.base if isinstance(config, AblationConfig | StudyConfig) else config
    run = holder if isinstance(holder, RunConfig) else holder.run
    assert run.reasoner.path in ("testbed", "testbed:null", *ADAPTERS) or "/" in run.reasoner.path
    assert run.prefix in prefix.list_built_in()


def _runs() -> dict[str, RunConfig]:
    names = [name for name in shipped_names() if name.startswith("run/")]
    return {name: yaml_config.load(RunConfig, shipped_config(name)) for name in names}


@pytest.mark.parametrize(
    "path",
    ["DeepSeek-R1-Distill", "Qwen3-4B", "Thinking-2507", "QwQ", "Phi-4", "gpt-oss", "OpenThinker", "cot", "LlamaV-o1"],
)
def test_every_family_has_a_run_of_its_own(path: str) -> None:
    assert any(path in config.reasoner.path for config in _runs().values())


def test_every_guard_and_kind_of_monitor_has_a_run_of_its_own() -> None:
    monitors = [config.monitor for config in _runs().values()]
    members = [member for each in monitors if isinstance(each, CombinationSection) for member in each.members]
    assert {"guard", "stream", "reward", "probe", "cascade"} <= {each.kind for each in monitors}
    paths = [each.path for each in (*monitors, *members) if isinstance(each, GuardMonitorConfig)]
    guards = (
        "Llama-Guard-3-8B",
        "3-11B-Vision",
        "Llama-Guard-4",
        "Qwen3Guard-Gen",
        "wildguard",
        "shieldgemma",
        "safeguard",
    )
    assert [guard for guard in guards if not any(guard in path for path in paths)] == []


@pytest.mark.parametrize("name", ["testbed", "run/testbed", "configs/run/testbed.yaml", "run/testbed.yaml"])
def test_a_shipped_config_is_found_by_name_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_config(name) == configs_folder() / "run" / "testbed.yaml"


def test_a_bare_name_belongs_to_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped_config("testbed", "eval") == configs_folder() / "eval" / "testbed.yaml"


def test_a_path_comes_first(tmp_path: Path) -> None:
    mine = tmp_path / "testbed.yaml"
    mine.write_text("reasoner: {path: mine}", encoding="utf-8")
    assert shipped_config(str(mine)) == mine


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(MissingFileError, match=r"no configuration 'tesbed'.*, testbed, did you mean 'testbed'\?"):
        shipped_config("tesbed")


def test_configs_are_found_inside_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "safethink"
    (package / "configs" / "run").mkdir(parents=True)
    (package / "configs" / "run" / "only.yaml").write_text("reasoner: {path: p}", encoding="utf-8")
    monkeypatch.setattr("safethink.config.yaml_config.__file__", str(package / "config" / "yaml_config.py"))
    assert shipped_names() == ("run/only",)
    assert shipped_config("only") == package / "configs" / "run" / "only.yaml"
