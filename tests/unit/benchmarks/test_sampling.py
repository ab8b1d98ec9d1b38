"""Samples keep the shares of kinds and categories, and do not depend on how a file is sorted."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from safethink import benchmarks
from safethink.benchmarks.sampling import sample
from safethink.config import JsonlBenchmarkConfig, WorldConfig
from safethink.prompts import Prompt


def prompt(number: int, category: str | None) -> Prompt:
    return Prompt.from_text(f"Question {number}", id=str(number)).replace(kind="harmful", category=category)


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=5), share=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_every_category_keeps_its_share_to_within_one(sizes: list[int], share: float, seed: int) -> None:
    labels = [str(place) for place, size in enumerate(sizes) for _ in range(size)]
    prompts = [prompt(number, label) for number, label in enumerate(labels)]
    size = max(1, int(share * len(prompts)))
    drawn = sample(prompts, size, seed)
    assert len(drawn) == len({each.id for each in drawn}) == size
    counts = Counter(each.category for each in drawn)
    for label, total in Counter(labels).items():
        assert abs(counts[label] - total * size / len(prompts)) < 1


@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 99))
def test_the_order_of_the_file_makes_no_difference(order: random.Random, seed: int) -> None:
    prompts = [prompt(number, str(number % 3)) for number in range(20)]
    shuffled = [each.replace(id=f"other-{each.id}") for each in prompts]
    order.shuffle(shuffled)
    assert {each.text for each in sample(prompts, 7, seed)} == {each.text for each in sample(shuffled, 7, seed)}


def test_another_seed_draws_others_and_the_same_seed_the_same() -> None:
    prompts = [prompt(number, None) for number in range(50)]
    assert sample(prompts, 10, 0) == sample(prompts, 10, 0) != sample(prompts, 10, 1)
    few, many = ({each.id for each in sample(prompts, size, 0)} for size in (10, 20))
    assert few < many


def test_a_benchmark_says_that_it_is_a_sample(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"prompt": "Question {n}"}}\n' for n in range(9)))
    config = JsonlBenchmarkConfig(path=str(path), prompts="harmful", sample=4)
    found = benchmarks.load(config, WorldConfig())
    assert (len(found.prompts), found.notes) == (4, ("a sample of 4 of 9 prompts",))
    assert benchmarks.load(config.replace(sample=20), WorldConfig()).notes == ()
