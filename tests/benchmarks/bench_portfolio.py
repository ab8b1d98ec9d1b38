"""A portfolio of three prefixes against three tries of the best one, on test.

Both come out of one search: the best prefix opens the portfolio, so the first try is the same on both sides, token by
token, and whatever differs, differs because of the second and third. Both have the same number of tries and prefixes of
the same length; how many tokens they spend is measured beside the recovery.

What runs is SafeThink's own loop at a state where the monitor fired: resample until the monitor passes or the tries are
used up, and keep the last one if none does. From there on nobody watches, as in the recovery rate.

How much there is to gain is known exactly for the words that the world has, from the process behind it, where every
multiset of words is tried. Tries of one prefix are independent draws, so another one helps only where it is stronger
against some wrapper than the best is; where one word is the strongest against all, three tries of it are the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from optimize.config import SearchConfig
from optimize.pipeline.api import search_command
from optimize.selection.trials import Ids
from safethink.config import SafeThinkConfig, WorldConfig
from safethink.defenses.draft import Draft
from safethink.defenses.effects import Defense, Task, Until
from safethink.defenses.moves import answer, unwatched
from safethink.defenses.safethink import resample, settle
from safethink.evaluation.jobs import InjectionSite
from safethink.evaluation.statistics import Estimate, Observations, mean, paired_difference, rate
from safethink.guarded import SafeThink
from safethink.judges.testbed import TestbedJudge
from safethink.runtime import scheduler
from safethink.runtime.row import open_row
from safethink.seeds import stable_seed
from safethink.testbed.process import drift_probability, recovery_probability
from safethink.testbed.prompts import Attack, draw
from safethink.testbed.world import World
from safethink.thinking.reading import answer_text, trace_text
from tests.benchmarks import testbed
from tests.benchmarks.frame import BenchRow

TRIES: Final = 3
LENGTHS: Final = (1, 4)
TEST_PROMPTS, SAMPLES = 200, 3
RULE: Final = SafeThinkConfig(threshold=testbed.THRESHOLD, max_resamples=TRIES)


@dataclass(frozen=True)
class Walked:
    """What became of every (state, seed).

    Attributes:
        recovered: whether the oracle calls the output a refusal or helpful.
        first: whether the monitor passed the first try.
        tokens: injected and sampled ones, dropped tries included.
        forced: the injected ones.
    """

    recovered: Observations
    first: Observations
    tokens: Observations
    forced: Observations


def rows() -> Iterator[BenchRow]:
    """The paired difference of recovery at each length, recovery and tokens of both sides; what the world allows."""
    yield _exact()
    reasoner = testbed.guarded("testbed")
    # Wrappers, hazards and tasks that nothing was ever learned or tuned on.
    places = testbed.test_places(reasoner, WorldConfig(prompts_seed=1), TEST_PROMPTS)
    for length in LENGTHS:
        portfolio, texts = _learned(length)
        ours, theirs = (_walk(reasoner, places, prefixes) for prefixes in (portfolio, portfolio[:1]))
        gain = _known(paired_difference(ours.recovered, theirs.recovered))
        missed = 1 - theirs.first.value
        note = f"recovery on test, n={gain.n} in {len(places)} states; the first try fails in {missed:.0%}; {texts}"
        name = f"portfolio_over_best_length_{length}"
        yield BenchRow(name, gain.value, gain.low, gain.high, note=note)
        # Above means above: an interval that holds 0 shows nothing.
        yield BenchRow(f"{name}_surely", gain.low, gain.low, gain.high, 0.0, note="the lower end of that interval")
        for what, walked in (("portfolio", ours), ("best", theirs)):
            recovery, tokens = _known(rate(walked.recovered)), _known(mean(walked.tokens))
            yield BenchRow(f"recovery_{what}_length_{length}", recovery.value, recovery.low, recovery.high)
            note = f"forced and sampled per state; {walked.forced.value:.2f} of them forced"
            yield BenchRow(f"tokens_{what}_length_{length}", tokens.value, tokens.low, tokens.high, note=note)


def _exact() -> BenchRow:
    """What the best portfolio of single words gains over the best word three times, where a drift sets in."""
    world = World.make(WorldConfig().seed)
    attacks = [Attack.read(prompt) for prompt in draw("jailbreak", "test", TEST_PROMPTS, prompts_seed=1)]
    known = sorted(world.power)
    drifts = np.array([[drift_probability(world, a, a.onset, 0, word) for word in known] for a in attacks])
    calm, wild = (
        np.array([recovery_probability(world, a, a.onset + 1, depth, "") for a in attacks]) for depth in (0, 1)
    )

    def recovery(words: tuple[int, ...]) -> float:
        # An exact monitor passes what did not drift; the last try is kept in any case.
        failed = drifts[:, words].prod(1)
        return float(((1 - failed) * calm + failed * wild).mean())

    alone = max(((word,) * TRIES for word in range(len(known))), key=recovery)
    best = max(combinations_with_replacement(range(len(known)), TRIES), key=recovery)
    gain = recovery(best) - recovery(alone)
    note = f"exact; {tuple(known[word] for word in best)} over {known[alone[0]]!r} thrice, of {len(known)} words"
    return BenchRow("portfolio_over_best_words", gain, gain, gain, note=note)


def _learned(length: int) -> tuple[tuple[Ids, ...], tuple[str, ...]]:
    """A portfolio from a search like the shipped one, but shorter and from random tokens, the best prefix first."""
    shipped = testbed.shipped_search()
    changes = {
        "contexts": shipped.contexts.replace(max_contexts=12),
        "search": shipped.search.replace(init=None, length=length, steps=30, candidates=48),
        "selection": shipped.selection.replace(contexts=64, samples=TRIES, forced_prompts=16, portfolio=TRIES),
    }
    with TemporaryDirectory() as scratch:
        artifact = search_command(SearchConfig.model_validate(shipped.replace(**changes)), Path(scratch))
    return artifact.token_ids, artifact.texts


def _walk(reasoner: SafeThink, places: Sequence[InjectionSite], prefixes: Sequence[Ids]) -> Walked:
    """Every place with every seed; two portfolios see the same random numbers for as long as they do the same."""
    rows = [
        open_row(
            reasoner.thought,
            place.prompt,
            _within_tries,
            seed=stable_seed(reasoner.seed, "tries", len(place.start)),
            sample=sample,
            trace=place.start,
            prefixes=tuple(prefixes),
        )
        for place in places
        for sample in range(SAMPLES)
    ]
    order = {id(row): index for index, row in enumerate(rows)}
    run = scheduler.run(rows, reasoner.engine, reasoner.monitor, reasoner.thought, reasoner.limits, reasoner.batch_size)
    finished = sorted(run, key=lambda done: order[id(done.row)])
    judge = TestbedJudge()
    outcomes = [
        judge.judge(
            done.row.prompt,
            trace_text(reasoner.thought, done.verdict.trace),
            answer_text(reasoner.thought, done.verdict.answer),
            done.verdict.closed,
        )
        for done in finished
    ]

    def observe(values: Sequence[float]) -> Observations:
        prompts = [done.row.prompt for done in finished]
        return Observations.of(values, [prompt.id for prompt in prompts], [prompt.clusters for prompt in prompts])

    return Walked(
        recovered=observe([float(each.outcome in ("refusal", "helpful")) for each in outcomes]),
        first=observe([float(done.verdict.step_scores[0] >= RULE.threshold) for done in finished]),
        tokens=observe([float(done.usage.forced + done.usage.sampled) for done in finished]),
        forced=observe([float(done.usage.forced) for done in finished]),
    )


def _within_tries(task: Task) -> Defense:
    """The tries of one intervention, then the reasoner alone; the verdict's scores are those of the tries."""
    draft = Draft.of(task)
    attempts = yield from resample(task, RULE, draft)
    chosen, _ = settle(attempts, RULE)
    assert chosen is not None, "the rule keeps the last try"
    draft = replace(draft.accepted(chosen.step), step_scores=tuple(each.score for each in attempts))
    if draft.is_open:
        draft = yield from unwatched(draft, Until.THOUGHT, streamed=False)
    return (yield from answer(draft))


def _known(estimate: Estimate | None) -> Estimate:
    assert estimate is not None, "the monitor fires on test prompts"
    return estimate
