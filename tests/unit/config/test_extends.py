"""A file that extends another one is the whole that somebody would have written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from optimize.ablation.config import AblationConfig
from optimize.config import CollectConfig, RandomConfig, SearchConfig
from safethink.cli.parsing import parse_with_config
from safethink.cli.program import CommandFlags
from safethink.config import NoneConfig, RunConfig, yaml_config
from safethink.config.yaml_config import merged, shipped_config
from safethink.errors import ConfigError, MissingFileError

RUN = {"reasoner": {"path": "somewhere"}, "defense": {"kind": "resample_only", "max_resamples": 2}, "seed": 4}

DEFENSES = st.one_of(
    st.just({"kind": "none"}),
    st.builds(lambda tries: {"kind": "resample_only", "max_resamples": tries}, st.integers(1, 3)),
    st.builds(lambda tau: {"kind": "safethink", "threshold": tau}, st.sampled_from([-0.5, 0.0, 0.5])),
)
SEARCHES = st.one_of(
    st.builds(lambda length: {"kind": "random", "length": length}, st.integers(1, 3)),
    st.builds(lambda length, top: {"kind": "gcg", "length": length, "top_k": top}, *[st.integers(1, 3)] * 2),
    st.builds(lambda pool: {"kind": "phrases", "pool": pool}, st.lists(st.sampled_from(["Wait", "Stop"]))),
)
CONFIGS = st.builds(
    lambda defense, seed, search, racing, prompts: SearchConfig.model_validate(
        {
            "run": {"reasoner": {"path": "somewhere"}, "defense": defense, "seed": seed},
            "search": search,
            "objective": {"racing": racing},
            "contexts": {"prompts": prompts},
        }
    ),
    DEFENSES,
    st.integers(0, 2),
    SEARCHES,
    st.one_of(st.none(), st.builds(lambda keep: {"keep": keep}, st.integers(1, 3))),
    st.integers(1, 3),
)


class Switches(CommandFlags):
    """What a command over a run may take beside it."""


Write = Callable[[str, Mapping[str, object]], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, values: Mapping[str, object]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def complaint(path: Path, error: type[Exception] = ConfigError) -> str:
    with pytest.raises(error) as caught:
        yaml_config.load(RunConfig, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def differences(whole: dict[str, Any], parent: dict[str, Any], random: Random) -> dict[str, Any]:
    """What has to be written over `parent` to say `whole`, and at random what need not be."""
    out: dict[str, Any] = {}
    for key, value in whole.items():
        before = parent[key]
        if isinstance(value, dict) and isinstance(before, dict) and value.get("kind") == before.get("kind"):
            out[key] = differences(value, before, random)
        elif value != before or random.random() < 0.5:
            out[key] = value
    return out


@given(CONFIGS, CONFIGS, st.randoms())
def test_what_differs_from_a_file_over_that_file_is_the_whole(
    whole: SearchConfig, parent: SearchConfig, random: Random
) -> None:
    by_hand, before = whole.model_dump(mode="json"), parent.model_dump(mode="json")
    assert merged(before, differences(by_hand, before, random)) == by_hand


def test_mappings_merge_while_lists_values_and_sections_of_another_kind_replace() -> None:
    parent = {"a": {"x": 1, "y": {"z": [1, 2]}}, "b": {"kind": "p", "only_p": 1}, "c": {"kind": "p", "w": 1}, "d": [1]}
    child = {"a": {"y": {"z": [3]}}, "b": {"kind": "q"}, "c": {"w": None}, "d": {"e": 2}, "f": 3}
    assert merged(parent, child) == {
        "a": {"x": 1, "y": {"z": [3]}},
        "b": {"kind": "q"},
        "c": {"kind": "p", "w": None},
        "d": {"e": 2},
        "f": 3,
    }
    assert parent["a"] == {"x": 1, "y": {"z": [1, 2]}}


def test_a_path_begins_at_the_file_that_names_it_and_chains_go_on(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("deep/root.yaml", RUN)
    write("deep/middle.yaml", {"extends": "root.yaml", "seed": 5, "batch_size": 3})
    mine = write("mine.yaml", {"extends": "deep/middle.yaml", "batch_size": 7, "defense": {"kind": "none"}})
    monkeypatch.chdir(tmp_path.parent)
    config = yaml_config.load(RunConfig, mine)
    assert config == RunConfig.model_validate(RUN | {"seed": 5, "batch_size": 7, "defense": {"kind": "none"}})
    assert "extends" not in yaml_config.dump(config)
    absolute = write("deep/absolute.yaml", {"extends": str(mine), "seed": 6})
    assert yaml_config.load(RunConfig, absolute) == config.replace(seed=6)


def test_a_name_is_that_of_a_shipped_file_of_the_same_section_or_of_any_other(write: Write) -> None:
    shipped = yaml_config.load(SearchConfig, shipped_config("search/testbed-gcg"))
    bare, full = write("bare.yaml", {"extends": "testbed-gcg"}), write("full.yaml", {"extends": "search/testbed-gcg"})
    assert yaml_config.load(SearchConfig, bare, "search") == yaml_config.load(SearchConfig, full) == shipped
    # The names in a shipped file stay those of its own section.
    mine = write("mine.yaml", {"extends": "search/smollm2-random", "seed": 3})
    random = yaml_config.load(SearchConfig, shipped_config("search/smollm2-random"))
    assert yaml_config.load(SearchConfig, mine, "run") == random.replace(seed=3)


def test_an_installed_package_extends_what_it_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "safethink"
    for name, text in (("run/whole", "reasoner: {path: p}"), ("run/part", "{extends: whole, seed: 8}")):
        file = package / "configs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    monkeypatch.setattr("safethink.config.yaml_config.__file__", str(package / "config" / "yaml_config.py"))
    assert yaml_config.load(RunConfig, shipped_config("part"), "eval").seed == 8


def test_flags_override_what_was_extended(write: Write) -> None:
    write("parent.yaml", RUN)
    child = str(write("child.yaml", {"extends": "parent.yaml", "batch_size": 7}))
    argv = (child, "--defense.max_resamples", "4", "--batch_size", "2")
    _, config = parse_with_config(Switches, RunConfig, "run", "prog", argv)
    assert (config.seed, config.batch_size, config.defense.model_dump()["max_resamples"]) == (4, 2, 4)
    _, config = parse_with_config(Switches, RunConfig, "run", "prog", (child, "--defense.kind", "none"))
    assert config.defense == NoneConfig()


def test_the_base_of_an_ablation_may_extend_another_search(write: Write) -> None:
    base = write("base.yaml", {"extends": "testbed-gcg", "search": {"kind": "random", "length": 2}})
    ablation = write("ablation.yaml", {"base": str(base), "axes": {"search.length": [1, 2]}})
    config = yaml_config.load(AblationConfig, ablation, "ablate")
    shipped = yaml_config.load(SearchConfig, shipped_config("search/testbed-gcg"))
    assert config.base == shipped.replace(search=RandomConfig(length=2))


def test_a_parent_that_is_missing_is_named_with_the_file_that_wants_it(write: Write) -> None:
    mine = write("mine.yaml", {"extends": "testbd"})
    said = complaint(mine, MissingFileError)
    assert said.startswith(f"{mine}: extends: no configuration 'testbd': neither a file nor one of ")
    assert said.endswith(", did you mean 'testbed'?")
    far = write("far.yaml", {"extends": "mine.yaml"})
    assert complaint(far, MissingFileError) == said


def test_a_circle_is_named(write: Write, tmp_path: Path) -> None:
    a = write("a.yaml", {"extends": "b.yaml"})
    b = write("b.yaml", {"extends": "./a.yaml"})
    assert complaint(a) == f"{b}: extends: a circle, {a} -> {b} -> {a}"
    itself = write("itself.yaml", {"extends": "itself.yaml"})
    assert complaint(itself) == f"{itself}: extends: a circle, {itself} -> {itself}"


@pytest.mark.parametrize("parents", [["a.yaml", "b.yaml"], None, 3, {"run": "a.yaml"}])
def test_more_or_less_than_one_parent_is_refused(write: Write, parents: object) -> None:
    mine = write("mine.yaml", {"extends": parents})
    assert complaint(mine) == f"{mine}: extends: expected one name or path of a configuration, not {parents!r}"


def test_a_mistake_names_the_file_and_what_it_extends(write: Write) -> None:
    parent = write("parent.yaml", RUN | {"sed": 1})
    mine = write("mine.yaml", {"extends": "parent.yaml"})
    assert complaint(mine) == f"{mine}, extending {parent}: sed: unknown key, did you mean 'seed'?"
    parent.write_text("- a list", encoding="utf-8")
    assert complaint(mine).startswith(f"{parent}: expected keys such as ")
    # The key belongs to a file, not to a section of it.
    inside = write("inside.yaml", RUN | {"monitor": {"kind": "guard", "path": "p", "extends": "x"}})
    assert "monitor.extends: unknown key" in complaint(inside)


def test_searches_on_the_small_real_reasoner_share_threshold_prompts_contexts_and_choice() -> None:
    collected = yaml_config.load(CollectConfig, shipped_config("contexts/smollm2"))
    for kind in ("evolution", "gcg", "phrases", "random", "soft", "unigram"):
        search = yaml_config.load(SearchConfig, shipped_config(f"search/smollm2-{kind}"))
        assert (search.search.kind, search.name) == (kind, f"smollm2-{kind}")
        assert search.run == collected.run
        assert search.prompt_sets == collected.prompt_sets
        assert search.contexts.replace(path=None) == collected.contexts
        assert search.selection.forced_prompts == collected.forced_prompts
        assert search.contexts.max_contexts + search.selection.contexts >= 100
        assert search.search.budget_tokens == 100000
