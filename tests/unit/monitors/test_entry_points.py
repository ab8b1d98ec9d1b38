"""Monitors of other packages, found through a real entry point on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from safethink.config import EntryPointMonitorConfig
from safethink.errors import ConfigError
from safethink.monitors import ScoreRequest
from safethink.monitors.build import build
from safethink.prompts import Prompt

MODULE = """
class Lengths:
    def __init__(self, limit=10):
        self.limit = limit
    def score(self, requests):
        return [1.0 if len(request.trace) < self.limit else -1.0 for request in requests]
    def release(self, row):
        pass

def broken():
    raise RuntimeError("no licence")

number = int
"""
ENTRY_POINTS = """
[safethink.monitors]
lengths = third_party_monitor:Lengths
broken = third_party_monitor:broken
gone = third_party_monitor:Gone
number = third_party_monitor:number
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with monitors, as an installer would leave it."""
    (tmp_path / "third_party_monitor.py").write_text(MODULE, encoding="utf-8")
    info = tmp_path / "third_party_monitor-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party-monitor\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "third_party_monitor", raising=False)


def test_a_monitor_is_built_with_its_options() -> None:
    requests = [ScoreRequest(0, Prompt.from_text("x"), trace) for trace in ("short", "rather longer")]
    assert build(EntryPointMonitorConfig(name="lengths")).score(requests) == [1.0, -1.0]
    assert build(EntryPointMonitorConfig(name="lengths", options={"limit": 3})).score(requests) == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("broken", {}, r"monitor 'broken' \(third_party_monitor:broken\) failed to load: RuntimeError: no licence"),
        ("gone", {}, r"monitor 'gone' \(third_party_monitor:Gone\) failed to load: AttributeError"),
        ("lengths", {"limt": 3}, "monitor 'lengths' .* failed to load: TypeError.*limt"),
        ("number", {}, "monitor 'number' .* made a int, which has no `score`"),
        ("lenghts", {}, "no monitor 'lenghts' .*there are broken, gone, lengths, number, did you mean 'lengths'"),
    ],
)
def test_one_that_does_not_load_is_named(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        build(EntryPointMonitorConfig(name=name, options=options))
    assert "\n" not in str(caught.value)


def test_two_packages_with_one_name_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other_monitor-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-monitor\nVersion: 1.0\n", encoding="utf-8")
    (other / "entry_points.txt").write_text("[safethink.monitors]\nlengths = other:Lengths\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'lengths' is announced by several packages"):
        build(EntryPointMonitorConfig(name="lengths"))
