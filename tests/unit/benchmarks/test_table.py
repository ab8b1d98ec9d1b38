"""Any table, by a map of its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from safethink import benchmarks
from safethink.config import TableBenchmarkConfig, WorldConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt

CSV = """# ours
n,context,behavior,verdict,topic,part,right,also
1,A gate.,Open it,bad,doors,test,7,seven
2,,Close it,good,doors,dev,,
3,A key.,Turn it,odd,keys,test,8.0,
"""
BASE: dict[str, Any] = {
    "comment": "#",
    "fields": {"id": "n", "label": "verdict", "category": "topic", "group": "topic", "reference": ["right", "also"]},
    "template": "{context} {behavior}",
    "labels": {"bad": "harmful", "good": "harmless", "odd": None},
}


def load(tmp_path: Path, text: str = CSV, **changes: Any) -> tuple[Prompt, ...]:
    path = tmp_path / "own.csv"
    path.write_text(text)
    config = TableBenchmarkConfig.model_validate({"path": str(path)} | BASE | changes)
    return benchmarks.load(config, WorldConfig()).prompts


def test_columns_become_prompts(tmp_path: Path) -> None:
    first, second = load(tmp_path)
    assert (first.id, first.text, first.kind, first.category) == ("own:1", "A gate. Open it", "harmful", "doors")
    assert (first.references, first.clusters) == (("7", "seven"), {"group": "doors"})
    assert (second.text, second.kind, second.references) == ("Close it", "harmless", ())


def test_a_split_of_a_column(tmp_path: Path) -> None:
    fields = BASE["fields"] | {"split": "part"}
    assert [each.id for each in load(tmp_path, fields=fields, split="test")] == ["own:1"]
    with pytest.raises(ConfigError, match="no prompts of the split 'train'"):
        load(tmp_path, fields=fields, split="train")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"template": "{behaviour}"}, r"no column 'behaviour'; it has 'n', 'context'"),
        ({"template": "{behavior"}, "written twice"),
        ({"template": "{behavior!r}"}, "expected names of columns"),
        ({"template": "{behavior.x}"}, "expected names of columns"),
        ({"labels": {"bad": "harmful"}}, r"own\.csv:4 \(row 2\): the label 'good' is not one of `labels`: bad"),
    ],
)
def test_what_does_not_fit_the_file_is_named(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"template": None}, "either `fields.prompt` or `template`"),
        ({"labels": {}}, "go together"),
        ({"fields": {}, "labels": {}}, "give `prompts`"),
        ({"encoding": "klingon"}, "unknown encoding"),
    ],
)
def test_sections_that_cannot_be_read(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TableBenchmarkConfig.model_validate({"path": "own.csv"} | BASE | changes)


def test_two_equal_ids_are_refused_without_their_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the id 'own:doors' stands twice$"):
        load(tmp_path, fields=BASE["fields"] | {"id": "topic"})
