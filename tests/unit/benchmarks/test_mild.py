"""The mild prompts of `make real SMALL=1`: in published layouts, fit for its commands, taught to nobody."""

from __future__ import annotations

import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from optimize.config import SearchConfig
from optimize.reasoners import instructions
from safethink import benchmarks
from safethink.benchmarks import Benchmark
from safethink.config import BenchmarkConfig, EvalConfig, WorldConfig, yaml_config
from safethink.config.yaml_config import shipped_config
from safethink.prompts import Prompt, normalised

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def flags() -> list[dict[str, str]]:
    """Flags of the two commands of `make real SMALL=1`, as make would run them."""
    make = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/.installed", "real", "SMALL=1"]
    printed = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout.replace("\\\n", " ")
    found = [shlex.split(line) for line in printed.splitlines() if "safethink" in line and "--out" in line]
    words = [[word.removeprefix("--") for word in each[each.index("real") + 1 :]] for each in found]
    return [dict(zip(each[::2], each[1::2], strict=True)) for each in words]


def learned(flags: dict[str, str]) -> SearchConfig:
    changes = {key: value for key, value in flags.items() if key != "out"}
    return yaml_config.override(yaml_config.load(SearchConfig, shipped_config("search/real")), changes, "make real")


def asked(flags: dict[str, str]) -> EvalConfig:
    changes = {key: value for key, value in flags.items() if key != "out"}
    return yaml_config.override(yaml_config.load(EvalConfig, shipped_config("eval/real")), changes, "make real")


def load(section: BenchmarkConfig, **changes: object) -> Benchmark:
    return benchmarks.load(section.replace(**changes), WorldConfig())


def words(*found: Benchmark) -> set[str]:
    return {prompt.words_hash for benchmark in found for prompt in benchmark.prompts}


def taught_on(flags: dict[str, str]) -> tuple[BenchmarkConfig, ...]:
    """The sections that the search learns on."""
    sets = learned(flags).prompt_sets
    assert sets is not None
    return sets.either


def test_every_file_reads_as_its_authors_layout(flags: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sections = (*taught_on(flags[0]), *asked(flags[1]).benchmarks)
    counts = Counter(
        (section.kind, prompt.kind)
        for section in {section.kind: section for section in sections}.values()
        for prompt in load(section, half=None, sample=None).prompts
    )
    assert counts == {
        ("advbench", "harmful"): 24,
        ("jailbreakbench", "harmful"): 12,
        ("xstest", "borderline"): 16,
        ("multiarith", "harmless"): 12,
    }


def test_the_table_asks_nothing_that_was_learned_on(
    flags: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    learned_on = words(*map(load, taught_on(flags[0])))
    table = [load(section) for section in asked(flags[1]).benchmarks]
    assert all(len(benchmark.prompts) >= 6 for benchmark in table)
    assert not learned_on & words(*table)


def test_the_reasoner_was_taught_none_of_them(flags: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    texts = {normalised(request.text) for request in (*instructions.harmless(), *instructions.unkind())}
    taught = {Prompt.from_text(text).words_hash for text in texts}
    assert len(taught) > 100
    assert not taught & words(*map(load, taught_on(flags[0])), *map(load, asked(flags[1]).benchmarks))


def test_what_is_chosen_is_what_is_compared(flags: list[dict[str, str]]) -> None:
    assert asked(flags[1]).prefix == f"{flags[0]['out']}/artifact"
    assert learned(flags[0]).run.reasoner == asked(flags[1]).run.reasoner
