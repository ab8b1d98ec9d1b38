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
def learned() -> SearchConfig:
    """What `make real SMALL=1` learns."""
    return yaml_config.load(SearchConfig, shipped_config("search/real-small"))


@pytest.fixture(scope="module")
def asked() -> EvalConfig:
    """What it asks."""
    return yaml_config.load(EvalConfig, shipped_config("eval/real-small"))


def load(section: BenchmarkConfig, **changes: object) -> Benchmark:
    return benchmarks.load(section.replace(**changes), WorldConfig())


def words(*found: Benchmark) -> set[str]:
    return {prompt.words_hash for benchmark in found for prompt in benchmark.prompts}


def taught_on(learned: SearchConfig) -> tuple[BenchmarkConfig, ...]:
    """The sections that the search learns on."""
    assert learned.prompt_sets is not None
    return learned.prompt_sets.either


def test_every_file_reads_as_its_authors_layout(
    learned: SearchConfig, asked: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sections = (*taught_on(learned), *asked.benchmarks)
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
    learned: SearchConfig, asked: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    learned_on = words(*map(load, taught_on(learned)))
    table = [load(section) for section in asked.benchmarks]
    assert all(len(benchmark.prompts) >= 6 for benchmark in table)
    assert not learned_on & words(*table)


def test_the_reasoner_was_taught_none_of_them(
    learned: SearchConfig, asked: EvalConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    texts = {normalised(request.text) for request in (*instructions.harmless(), *instructions.unkind())}
    taught = {Prompt.from_text(text).words_hash for text in texts}
    assert len(taught) > 100
    assert not taught & words(*map(load, taught_on(learned)), *map(load, asked.benchmarks))


def test_what_is_chosen_is_what_is_compared(learned: SearchConfig, asked: EvalConfig) -> None:
    make = ["make", "--dry-run", "--no-print-directory", "--old-file=.venv/.installed", "real", "SMALL=1"]
    printed = subprocess.run(make, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    search, table = [shlex.split(line) for line in printed.splitlines() if "safethink" in line and "--out" in line]
    assert "real-small" in search
    assert "real-small" in table
    assert asked.prefix == f"{search[search.index('--out') + 1]}/artifact"
    assert learned.run.reasoner == asked.run.reasoner
