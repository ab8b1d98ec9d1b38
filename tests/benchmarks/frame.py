"""What a bench is: a function that measures something and returns rows, each a number beside its target."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Final, Literal

PREFIX: Final = "bench_"
"""A module of this package whose name begins so is a bench; its function `rows()` measures."""


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One measured number.

    Attributes:
        name: what it is.
        value: the number; a speed is a ratio measured side by side.
        low: lower end of its range or 95 % interval.
        high: upper end.
        target: what it should reach; None where it is only reported.
        direction: whether the target is a floor or a ceiling.
        exact: whether the exactness check beside it passed; None where there is none.
        note: what has to be known to read it.
    """

    name: str
    value: float
    low: float
    high: float
    target: float | None = None
    direction: Literal["at_least", "at_most"] = "at_least"
    exact: bool | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the number reaches its target and is exact, where it has to be."""
        if self.exact is False:
            return False
        if self.target is None:
            return True
        return self.value >= self.target if self.direction == "at_least" else self.value <= self.target

    def to_json(self) -> Mapping[str, object]:
        """The row as it is written."""
        return asdict(self) | {"met": self.met}


Bench = Callable[[], Iterable[BenchRow]]


def speedup(
    name: str, slow: Callable[[], object], fast: Callable[[], object], target: float, exact: bool, repeats: int = 5
) -> BenchRow:
    """How many times faster `fast` is than `slow`: the two run in turn, so that a busy machine slows both.

    Args:
        name: of the row.
        slow: the plain way.
        fast: the way that should be faster.
        target: the ratio it should reach.
        exact: whether both were checked to give the same result.
        repeats: pairs of runs, after one that warms up; the value is the median ratio, its range the extremes.
    """
    for warm_up in (slow, fast):
        warm_up()
    ratios = sorted(_seconds(slow) / _seconds(fast) for _ in range(repeats))
    return BenchRow(name, ratios[len(ratios) // 2], ratios[0], ratios[-1], target=target, exact=exact)


def timed(run: Callable[[], object], repeats: int) -> list[float]:
    """Seconds that some runs take, in ascending order, after one that warms up."""
    run()
    return sorted(_seconds(run) for _ in range(repeats))


def find(package: str, path: Iterable[str], wanted: Sequence[str] = ()) -> dict[str, Bench]:
    """The benches of a package, by name.

    Args:
        package: its name.
        path: its `__path__`.
        wanted: names to keep, without `bench_`; empty for all.
    """
    names = sorted(module.name for module in iter_modules(path) if module.name.startswith(PREFIX))
    chosen = [name for name in names if not wanted or name.removeprefix(PREFIX) in wanted]
    return {name.removeprefix(PREFIX): import_module(f"{package}.{name}").rows for name in chosen}


def write(name: str, rows: Sequence[BenchRow], folder: Path) -> Path:
    """Write the rows of a bench as a JSON list."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps([row.to_json() for row in rows], indent=2) + "\n", encoding="utf-8")
    return path


def line(row: BenchRow) -> str:
    """The row as a line of text."""
    bound = "" if row.target is None else f"  {'>=' if row.direction == 'at_least' else '<='} {row.target:g}"
    exact = "" if row.exact is None else "  exact" if row.exact else "  NOT EXACT"
    note = f"  ({row.note})" if row.note else ""
    number = f"{row.value:.3g} [{row.low:.3g}, {row.high:.3g}]"
    return f"{'ok    ' if row.met else 'missed'} {row.name}: {number}{bound}{exact}{note}"


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
