"""The null world: a reasoner to which every phrase is worth the same, so that a search must find nothing.

The whole road from choosing to reporting runs unchanged: phrases of the world's own kind, never seen in training, are
tried on validation and the best by the noisy judge is compared on test with a random other one. Each draw of prompts is
a search of its own; they share one network, so their intervals are not quite independent.

What is planted as equal was then trained into a small network, which need not have learned it exactly, least of all for
strings unlike those it was trained on. So what a search over the full vocabulary finds there is a quirk of the network,
not of the world, and only reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from optimize.config import SearchConfig
from optimize.pipeline.api import search_command
from optimize.selection.trials import choose_finalist
from optimize.testbed.phrases import held_out
from safethink.config import WorldConfig
from safethink.evaluation.statistics import Estimate, Observations, clopper_pearson, paired_difference
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow

DRAWS = 5
MAX_FALSE = 1
"""At a true rate of one in twenty, two or more of five happen once in forty."""
FORCED_PROMPTS = 16
NUM_PHRASES = 24
TEST_PROMPTS, SAMPLES = 150, 2


def rows() -> Iterator[BenchRow]:
    """Draws of prompts on which the chosen phrase's interval excludes 0; what gradients find in the network."""
    found = [_search_phrases(WorldConfig(prompts_seed=draw)) for draw in range(DRAWS)]
    hits = sum(not each.low <= 0.0 <= each.high for each in found)
    low, high = clopper_pearson(hits, DRAWS)
    note = f"of {DRAWS} draws, those whose interval excludes 0; the best of {NUM_PHRASES} phrases against a random one"
    yield BenchRow("null_world_phrases", hits, low * DRAWS, high * DRAWS, MAX_FALSE, "at_most", note=note)
    gains = [each.value for each in found]
    yield BenchRow(
        "null_world_phrases_gain", float(np.mean(gains)), min(gains), max(gains), note="on test; the extremes"
    )
    yield from _search_vocabulary()


def _search_phrases(world: WorldConfig) -> Estimate:
    """Choose among phrases on validation; on test, the chosen one's gain over a random other one."""
    reasoner = testbed.guarded("testbed:null")
    selection = testbed.shipped_search().selection.replace(samples=1, forced_prompts=FORCED_PROMPTS)
    contexts = testbed.validation(reasoner, world, selection.forced_prompts)
    arena = testbed.arena(reasoner, contexts, selection)
    phrases = testbed.ids_of(reasoner, held_out(seed=0)[:NUM_PHRASES])
    nothing, *trials = [arena.try_out(ids) for ids in [(), *phrases]]
    recoveries = [arena.recovery(trial).value for trial in trials]
    constraints = [arena.constraints(trial, nothing, selection.max_forced_loss) for trial in trials]
    chosen = phrases.pop(choose_finalist(recoveries, constraints))
    other = phrases[int(np.random.default_rng([world.prompts_seed, 1]).integers(len(phrases)))]
    return _gain(*testbed.test_recoveries(reasoner, [chosen, other], world, TEST_PROMPTS, SAMPLES))


def _search_vocabulary() -> Iterator[BenchRow]:
    """A short search over all tokens: its gain on test over random tokens, and over a phrase of the world."""
    reasoner = testbed.guarded("testbed:null")
    with TemporaryDirectory() as scratch:
        artifact = search_command(_short_search(), Path(scratch))
    words = testbed.vocabulary(reasoner, testbed.validation(reasoner, WorldConfig(), num_harmless=0))
    learned = artifact.token_ids[0]
    tried = [learned, *testbed.random_prefixes(words, 1, len(learned), seed=0)]
    tried += testbed.ids_of(reasoner, held_out(seed=0)[:1])
    ours, *others = testbed.test_recoveries(reasoner, tried, WorldConfig(), TEST_PROMPTS, SAMPLES)
    for other, what in zip(others, ("random_tokens", "a_phrase"), strict=True):
        gain = _gain(ours, other)
        note = f"{artifact.texts[0]!r} on test: the network's quirk, no finding about the world"
        yield BenchRow(f"null_world_full_vocabulary_over_{what}", gain.value, gain.low, gain.high, note=note)


def _gain(ours: Observations, theirs: Observations) -> Estimate:
    estimate = paired_difference(ours, theirs)
    assert estimate is not None, "the monitor fires on test prompts"
    return estimate


def _short_search() -> SearchConfig:
    """The shipped search on the null reasoner, with fewer steps and contexts."""
    shipped = testbed.shipped_search()
    return shipped.replace(
        run=testbed.run_config("testbed:null"),
        contexts=shipped.contexts.replace(max_contexts=16, harmless_prompts=8),
        search=shipped.search.replace(steps=15),
        selection=shipped.selection.replace(finalists=6, samples=1, forced_prompts=FORCED_PROMPTS),
    )
