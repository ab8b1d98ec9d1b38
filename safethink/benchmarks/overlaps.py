"""Overlaps of benchmarks: within one, between two of them, and with the prompts that a prefix was learned on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from safethink.benchmarks import Benchmark
from safethink.frozen import Frozen


class Overlaps(Frozen):
    """Prompts that ask the same, told by the words that the user says.

    Repeated prompts are no independent observations, and a number on what a prefix was learned on is no finding.
    """

    prompts: dict[str, int]
    """Number of prompts, by benchmark."""
    repeated: dict[str, int]
    """Prompts that an earlier one of the same benchmark asks too; benchmarks without any are left out."""
    shared: dict[str, int]
    """Prompts of two benchmarks' first that the second asks too, by `FIRST and SECOND`; pairs without any are left
    out."""
    learned_on: dict[str, int]
    """Prompts that the prefix on trial was learned on; benchmarks without any are left out."""
    notes: dict[str, tuple[str, ...]]
    """Whatever else a reader must know of a benchmark, such as rows that were left out."""

    def lines(self) -> Iterator[str]:
        """Each finding as a sentence."""
        for name, notes in self.notes.items():
            yield from (f"{name}: {note}." for note in notes)
        for name, count in self.repeated.items():
            yield f"{name}: {count} of {self.prompts[name]} prompts ask what an earlier one asks."
        for pair, count in self.shared.items():
            yield f"{pair} share {count} prompts."
        for name, count in self.learned_on.items():
            yield f"{name}: the prefix was learned on {count} of {self.prompts[name]} prompts; do not report on them."


def find(benchmarks: Sequence[Benchmark], learned_on: Collection[str] = ()) -> Overlaps:
    """The overlaps of some benchmarks.

    Args:
        benchmarks: what is evaluated.
        learned_on: hashes of what the prefix on trial was learned on; see `Prompt.words_hash`.
    """
    asked = {each.name: Counter(prompt.words_hash for prompt in each.prompts) for each in benchmarks}
    known = frozenset(learned_on)
    shared = {f"{a} and {b}": _within(asked[a], asked[b]) for a, b in combinations(asked, 2)}
    return Overlaps(
        prompts={each.name: len(each.prompts) for each in benchmarks},
        repeated=_some({name: words.total() - len(words) for name, words in asked.items()}),
        shared=_some(shared),
        learned_on=_some({name: _within(words, known) for name, words in asked.items()}),
        notes={each.name: each.notes for each in benchmarks if each.notes},
    )


def _within(words: Counter[str], others: Collection[str]) -> int:
    """Number of prompts whose words are among others."""
    return sum(count for each, count in words.items() if each in others)


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}
