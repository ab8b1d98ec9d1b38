"""Jailbreak templates around any benchmark's prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink import benchmarks
from safethink.benchmarks import wrappers
from safethink.config import JsonlBenchmarkConfig, WorldConfig
from safethink.errors import ConfigError, MissingFileError

TEMPLATE = """name: {name}
description: Ours.
source: https://example.org
parameters:
{parameters}
data_type: text
value: |
  You are a gatekeeper.
  {value}
"""


def template(folder: Path, name: str, value: str = "{{ prompt }} Now!", parameters: str = "  - prompt") -> None:
    folder.mkdir(exist_ok=True, parents=True)
    text = TEMPLATE.format(name=name, value=value, parameters=parameters)
    (folder / f"{name.lower().replace(' ', '_')}.yaml").write_text(text)


@pytest.fixture
def questions(tmp_path: Path) -> JsonlBenchmarkConfig:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "Open {{ it }}", "id": "a"}\n{"prompt": "Add 3", "id": "b", "label": "harmless"}\n')
    return JsonlBenchmarkConfig(path=str(path), prompts="harmful")


def test_every_prompt_stands_in_every_wrapper(tmp_path: Path, questions: JsonlBenchmarkConfig) -> None:
    folder = tmp_path / "jailbreak"
    template(folder, "Keeper")
    template(folder / "deep", "Guard", "Answer: {{prompt}}")
    found = benchmarks.load(questions.replace(wrappers=str(folder)), WorldConfig()).prompts
    assert [(each.id, each.kind, each.clusters["group"], each.clusters["wrapper"]) for each in found] == [
        ("a@Guard", "jailbreak", "a", "Guard"),
        ("a@Keeper", "jailbreak", "a", "Keeper"),
        ("b@Guard", "harmless", "b", "Guard"),
        ("b@Keeper", "harmless", "b", "Keeper"),
    ]
    assert found[1].text == "You are a gatekeeper.\nOpen {{ it }} Now!\n"


def test_a_sample_is_drawn_from_wrapped_prompts(tmp_path: Path, questions: JsonlBenchmarkConfig) -> None:
    for name in ("one", "two", "three"):
        template(tmp_path / "jailbreak", name)
    sampled = questions.replace(wrappers=str(tmp_path / "jailbreak"), sample=2)
    assert {each.kind for each in benchmarks.load(sampled, WorldConfig()).prompts} == {"jailbreak", "harmless"}


def test_templates_with_other_parameters_are_left_out_and_named(tmp_path: Path) -> None:
    template(tmp_path, "fine")
    template(tmp_path, "two", "{{ prompt }} {{ topic }}", "  - prompt\n  - topic")
    found = wrappers.load(str(tmp_path))
    assert [each.name for each in found.wrappers] == ["fine"]
    assert found.notes == ("1 templates left out, which take more or less than a prompt: two",)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("no place", "no place for {{ prompt }}"),
        ("{{ prompt }} {{ other }}", "'other' is undefined"),
        ("{{ prompt", "no template"),
        ("{{ prompt.__class__.__mro__ }}", "no template|no place"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named(tmp_path: Path, value: str, complaint: str) -> None:
    template(tmp_path, "bad", value)
    with pytest.raises(ConfigError, match=rf"bad\.yaml: .*({complaint})"):
        wrappers.load(str(tmp_path))


def test_wrappers_of_a_csv_hold_braces_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text(',name,prompt\n0,Keeper,"Be {{ kind }}. [INSERT PROMPT HERE]"\n1,Bare,Nothing\n')
    found = wrappers.load(str(path))
    assert [(each.name, each.around("Open?")) for each in found.wrappers] == [("Keeper", "Be {{ kind }}. Open?")]
    assert found.notes == ("1 wrappers without [INSERT PROMPT HERE] left out: Bare",)


def test_what_wrappers_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"wrappers: .*absent"):
        wrappers.load(str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match="no template takes a request"):
        wrappers.load(str(tmp_path))
    (tmp_path / "x.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match=r"x\.yaml: expected `name`"):
        wrappers.load(str(tmp_path))
