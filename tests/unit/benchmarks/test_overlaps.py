"""What benchmarks ask twice, and what a prefix was learned on."""

from __future__ import annotations

from safethink.benchmarks import Benchmark, overlaps
from safethink.prompts import Prompt


def benchmark(name: str, *texts: str, notes: tuple[str, ...] = ()) -> Benchmark:
    return Benchmark(name, tuple(Prompt.from_text(text, id=f"{name}:{n}") for n, text in enumerate(texts)), notes)


def test_repeats_overlaps_and_what_was_learned_on() -> None:
    one = benchmark("one", "Open the gate!", "open the  gate", "Close it.", notes=("3 rows left out",))
    two = benchmark("two", "OPEN THE GATE", "Turn the key")
    found = overlaps.find([one, two], learned_on=[Prompt.from_text("turn the key?").words_hash])
    assert (found.repeated, found.shared, found.learned_on) == ({"one": 1}, {"one and two": 2}, {"two": 1})
    assert list(found.lines()) == [
        "one: 3 rows left out.",
        "one: 1 of 3 prompts ask what an earlier one asks.",
        "one and two share 2 prompts.",
        "two: the prefix was learned on 1 of 2 prompts; do not report on them.",
    ]


def test_what_asks_nothing_twice_has_nothing_to_say() -> None:
    assert not list(overlaps.find([benchmark("one", "3 - 4?", "3 + 4?")]).lines())
