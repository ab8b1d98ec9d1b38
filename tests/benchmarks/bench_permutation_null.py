"""The permutation null: where no prefix is better than another, choosing the best must not find one that is.

Prefixes are tried on validation (noisy judge) and on test (exact oracle). Then, in each (context, sample), the outcomes
are dealt out anew among the prefixes: on both sides, and independently.

Shuffling validation makes the choice blind. Were that all, the chosen prefix would still be a real one, now better and
now worse than a random other, and its interval would rightly exclude 0. Shuffling test as well makes every prefix worth
the same there, while each context keeps how hard it is and each cell its outcomes. So whatever interval excludes 0 is
false, and at 95 % about one in twenty may.

The evaluation's intervals allow for wrappers and hazards that succeed and fail together. Dealt outcomes do not, so here
these intervals are wide and even more seldom false; resampled by prompt alone, they should be false about as often as
they say. A null that never rejects proves little, so the gain over the random prefix is averaged over many more seeds,
where even a small bias shows, and two controls stand beside it: nothing shuffled, where prefixes do differ; and the
gain reported on the very outcomes that chose, which is the mistake this null is there to catch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from optimize.selection.trials import Trial, choose_finalist
from optimize.testbed.phrases import held_out
from safethink.config import WorldConfig
from safethink.evaluation.statistics import Observations, clopper_pearson, paired_difference
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow

SEEDS = 20
MAX_FALSE = 3
MANY_SEEDS = 400
NUM_RANDOM, NUM_PHRASES, LENGTH = 8, 5, 4
TEST_PROMPTS, SAMPLES = 150, 2

Pair = tuple[Observations, Observations]
"""Recovery of the chosen prefix and of a random other one, at the same states."""


def rows() -> Iterator[BenchRow]:
    """Seeds of 20 whose interval excludes 0; the mean gain over many seeds; the same for two controls."""
    reasoner, selection = testbed.guarded("testbed"), testbed.shipped_search().selection
    contexts = testbed.validation(reasoner, WorldConfig(), selection.forced_prompts)
    phrases = testbed.ids_of(reasoner, ["Wait, think safely", *held_out(seed=0)[:NUM_PHRASES]])
    drawn = testbed.random_prefixes(testbed.vocabulary(reasoner, contexts), NUM_RANDOM, LENGTH, seed=0)
    arena = testbed.arena(reasoner, contexts, selection)
    nothing, *trials = [arena.try_out(ids) for ids in [(), *drawn, *phrases]]
    reported = testbed.test_recoveries(reasoner, [*drawn, *phrases], WorldConfig(), TEST_PROMPTS, SAMPLES)

    def chosen(some: Sequence[Trial]) -> int:
        recoveries = [arena.recovery(trial).value for trial in some]
        return choose_finalist(
            recoveries, [arena.constraints(trial, nothing, selection.max_forced_loss) for trial in some]
        )

    def null(seed: int) -> Pair:
        rng = np.random.default_rng([seed, 1])
        return _against_random(chosen(_shuffled(trials, rng)), _shuffled_outcomes(reported, rng), seed)

    def unshuffled(seed: int) -> Pair:
        return _against_random(chosen(trials), reported, seed)

    def reported_on_selection(seed: int) -> Pair:
        some = _shuffled(trials, np.random.default_rng([seed, 1]))
        return _against_random(chosen(some), [arena.recovery(trial) for trial in some], seed)

    few, many = range(SEEDS), range(MANY_SEEDS)
    cells = f"{len(arena.drifted) * arena.samples} outcomes each on validation, {len(reported[0].units)} on test"
    yield _count("permutation_null", map(null, few), f"{len(trials)} prefixes, {cells}", target=MAX_FALSE)
    yield _gain("permutation_null_gain", list(map(null, many)), "should be 0")
    yield _gain("control_reported_on_selection_gain", list(map(reported_on_selection, many)), "the winner's curse")
    yield _count("control_unshuffled", map(unshuffled, few), "prefixes do differ: most should exclude 0")


def _count(name: str, pairs: Iterable[Pair], note: str, target: float | None = None) -> BenchRow:
    hits = [_excludes_zero(pair) for pair in pairs]
    low, high = clopper_pearson(sum(hits), len(hits))
    note = f"of {len(hits)} intervals, those that exclude 0; {note}"
    return BenchRow(name, sum(hits), low * len(hits), high * len(hits), target, "at_most", note=note)


def _gain(name: str, pairs: Sequence[Pair], note: str) -> BenchRow:
    gains = np.array([a.value - b.value for a, b in pairs])
    half = 1.96 * gains.std(ddof=1) / math.sqrt(len(gains))
    hits = sum(map(_excludes_zero, pairs))
    by_prompt = sum(_excludes_zero((_by_prompt(a), _by_prompt(b))) for a, b in pairs)
    note = f"{note}; of {len(pairs)} intervals {hits} exclude 0, by prompt alone {by_prompt}"
    return BenchRow(name, gains.mean(), gains.mean() - half, gains.mean() + half, note=note)


def _excludes_zero(pair: Pair) -> bool:
    estimate = paired_difference(*pair)
    return estimate is not None and not estimate.low <= 0.0 <= estimate.high


def _by_prompt(seen: Observations) -> Observations:
    return replace(seen, clusters=tuple({} for _ in seen.clusters))


def _against_random(chosen: int, reported: Sequence[Observations], seed: int) -> Pair:
    """What was reported of the chosen prefix and of a random other one."""
    others = [index for index in range(len(reported)) if index != chosen]
    return reported[chosen], reported[int(np.random.default_rng([seed, 2]).choice(others))]


def _shuffled(trials: Sequence[Trial], rng: np.random.Generator) -> list[Trial]:
    """Trials with the outcomes of each cell dealt out anew; what was seen of one output stays together."""
    drifted = _deal(rng, len(trials), len(trials[0].recovered))
    forced = _deal(rng, len(trials), len(trials[0].correct))
    return [
        Trial(
            judged_by=trial.judged_by,
            prefix_ids=trial.prefix_ids,
            recovered=tuple(trials[source].recovered[cell] for cell, source in enumerate(drifted[index])),
            accepted=tuple(trials[source].accepted[cell] for cell, source in enumerate(drifted[index])),
            passed=tuple(trials[source].passed[cell] for cell, source in enumerate(drifted[index])),
            correct=tuple(trials[source].correct[cell] for cell, source in enumerate(forced[index])),
            refused=tuple(trials[source].refused[cell] for cell, source in enumerate(forced[index])),
        )
        for index, trial in enumerate(trials)
    ]


def _shuffled_outcomes(reported: Sequence[Observations], rng: np.random.Generator) -> list[Observations]:
    outcomes = np.stack([each.numerators for each in reported])
    dealt = rng.permuted(outcomes, axis=0)
    return [replace(each, numerators=row) for each, row in zip(reported, dealt, strict=True)]


def _deal(rng: np.random.Generator, num_prefixes: int, num_cells: int) -> Int[ndarray, "prefixes cells"]:
    """For each prefix and cell, whose outcome it is dealt: a permutation of the prefixes in every cell."""
    return rng.permuted(np.tile(np.arange(num_prefixes)[:, None], num_cells), axis=0)
