"""The frame of the benches: what counts as met, and what is written."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests import benchmarks
from tests.benchmarks import frame
from tests.benchmarks.frame import BenchRow


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (BenchRow("a", 2.0, 1.9, 2.1, target=1.5), True),
        (BenchRow("a", 1.0, 0.9, 1.1, target=1.5), False),
        (BenchRow("a", 0.02, 0.0, 0.1, target=0.03, direction="at_most"), True),
        (BenchRow("a", 0.05, 0.0, 0.1, target=0.03, direction="at_most"), False),
        (BenchRow("a", 9.0, 8.0, 9.5, target=1.5, exact=False), False),
        (BenchRow("a", 9.0, 8.0, 9.5), True),
    ],
)
def test_a_target_is_met_only_by_an_exact_number(row: BenchRow, met: bool) -> None:
    assert row.met == met
    assert frame.line(row).startswith("ok" if met else "missed")


def test_rows_are_written_as_a_list(tmp_path: Path) -> None:
    path = frame.write("speed", [BenchRow("a", 2.0, 1.0, 3.0, target=1.5, exact=True)], tmp_path / "bench")
    (written,) = json.loads(path.read_text())
    assert {"name", "value", "low", "high", "target", "exact", "met"} <= set(written)


def test_a_speed_is_a_ratio() -> None:
    row = frame.speedup("sleep", lambda: time.sleep(0.03), lambda: time.sleep(0.003), target=3.0, exact=True, repeats=3)
    assert row.low <= row.value <= row.high
    assert row.met


def test_benches_are_found_by_name() -> None:
    found = frame.find(benchmarks.__name__, benchmarks.__path__, ["statistics"])
    assert list(found) == ["statistics"]
    assert frame.find(benchmarks.__name__, benchmarks.__path__, ["nothing"]) == {}
