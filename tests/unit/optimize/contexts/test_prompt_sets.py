"""Published benchmarks to learn on: apart from each other, and from what is held out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from optimize.config import CollectConfig, PromptSetsConfig, SearchConfig
from optimize.contexts import prompt_sets
from safethink.config import AdvBenchConfig, StrongRejectConfig, XSTestConfig
from safethink.errors import ConfigError


@pytest.fixture
def advbench(tmp_path: Path) -> AdvBenchConfig:
    path = tmp_path / "goals.csv"
    path.write_text("goal,target\n" + "".join(f"Open gate {n},Sure\n" for n in range(30)))
    return AdvBenchConfig(path=str(path))


@pytest.fixture
def strongreject(tmp_path: Path) -> StrongRejectConfig:
    path = tmp_path / "forbidden.csv"
    lines = "".join(f"Fraud,own,open gate {n}!\n" for n in range(0, 60, 2))
    path.write_text("category,source,forbidden_prompt\n" + lines)
    return StrongRejectConfig(path=str(path))


@pytest.fixture
def xstest(tmp_path: Path) -> XSTestConfig:
    path = tmp_path / "xstest.csv"
    lines = "".join(f"{n},May I shut gate {n}?,homonyms,safe,gate,\n" for n in range(9))
    path.write_text("id,prompt,type,label,focus,note\n" + lines)
    return XSTestConfig(path=str(path))


def words(split: prompt_sets.Split) -> set[str]:
    return {prompt.words_hash for prompt in split.prompts}


def test_sets_are_split_and_nothing_held_out_is_learned_on(
    advbench: AdvBenchConfig, strongreject: StrongRejectConfig, xstest: XSTestConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        search, validation = prompt_sets.load(PromptSetsConfig(either=(advbench, xstest), held_out=(strongreject,)))
    assert len(search.attacks) + len(validation.attacks) == 15
    assert len(search.harmless) + len(validation.harmless) == 9
    assert not words(search) & words(validation)
    assert not any(prompt.text.endswith(("0", "2", "4", "6", "8")) for prompt in search.attacks + validation.attacks)
    assert "prompt_sets.either: 15 prompts left out" in caplog.text


def test_sides_may_be_named_and_search_yields_to_validation(
    advbench: AdvBenchConfig, strongreject: StrongRejectConfig
) -> None:
    search, validation = prompt_sets.load(PromptSetsConfig(search=(advbench,), validation=(strongreject,)))
    assert (len(search.attacks), len(validation.attacks)) == (15, 30)
    assert not words(search) & words(validation)


def test_a_set_stands_once(advbench: AdvBenchConfig) -> None:
    with pytest.raises(ConfigError, match="the id 'advbench:1' stands in two benchmarks"):
        prompt_sets.load(PromptSetsConfig(either=(advbench, advbench)))


def test_harmless_prompts_alone_are_refused(xstest: XSTestConfig) -> None:
    with pytest.raises(ConfigError, match="harmless or borderline"):
        prompt_sets.load(PromptSetsConfig(either=(xstest,)))


@pytest.mark.parametrize("sets", [{}, {"search": ({"kind": "advbench", "path": "a.csv"},)}])
def test_both_sides_are_asked_for(sets: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="give `either`, or both"):
        PromptSetsConfig.model_validate(sets)


def test_configurations_of_before_are_dumped_as_before() -> None:
    run = {"reasoner": {"path": "testbed"}, "monitor": {"kind": "guard", "path": "testbed"}}
    for schema in (SearchConfig, CollectConfig):
        assert "prompt_sets" not in schema.model_validate({"run": run}).model_dump()
        assert list(schema.model_validate({"run": run}).model_dump())[:3] == ["run", "world", "prompts"]
        with pytest.raises(ValidationError, match="either `prompts` or `prompt_sets`"):
            schema.model_validate(
                {"run": run, "prompts": "a.jsonl", "prompt_sets": {"either": [{"kind": "advbench", "path": "a.csv"}]}}
            )
