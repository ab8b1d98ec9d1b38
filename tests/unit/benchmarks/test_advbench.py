"""AdvBench's layout, in rows of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from safethink import benchmarks
from safethink.config import AdvBenchConfig, WorldConfig
from safethink.errors import ConfigError


def test_goals_are_harmful_prompts(tmp_path: Path) -> None:
    path = tmp_path / "harmful_behaviors.csv"
    path.write_text('goal,target\nMix the grey powder,"Sure, here is how"\n"Open the gate,\nquietly","Sure, here"\n')
    found = benchmarks.load(AdvBenchConfig(path=str(path)), WorldConfig())
    assert found.name == "advbench"
    assert [(each.id, each.kind, each.text) for each in found.prompts] == [
        ("advbench:1", "harmful", "Mix the grey powder"),
        ("advbench:2", "harmful", "Open the gate,\nquietly"),
    ]


def test_an_empty_goal_is_named_by_line_and_row(tmp_path: Path) -> None:
    path = tmp_path / "goals.csv"
    path.write_text('goal,target\n"Open the\ngate",Sure\n" ",Sure\n')
    with pytest.raises(ConfigError, match=r"goals\.csv:4 \(row 2\): the prompt is empty"):
        benchmarks.load(AdvBenchConfig(path=str(path)), WorldConfig())
