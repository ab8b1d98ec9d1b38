"""A portfolio: an ordered list of prefixes, one per try, chosen so that each recovers what those before it leave.

Under SafeThink try b of an intervention injects prefix b, and the first step that the monitor passes is taken. What a
portfolio recovers within so many tries is read off trials of its members: the trials have several seeds per state, and
every try of a walk uses another one, so that trying the same prefix again is not mistaken for trying it once.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimize.config import ChosenBy, SelectionConfig
from optimize.selection.trials import Arena, Trial, best
from safethink.evaluation.statistics import Observations


def members(arena: Arena, trials: Sequence[Trial], nothing: Trial, config: SelectionConfig) -> list[Trial]:
    """The trials of what is published, in the order in which they are tried; each is held to the floor.

    Args:
        arena: where they took place.
        trials: the candidates', cheapest by training cost first.
        nothing: the trial of nothing injected.
        config: how many, who says what recovered, and the floor.
    """
    first = trials[best(arena, trials, nothing, config)]
    within = [each for each in trials if arena.constraints(each, nothing, config.max_forced_loss).satisfied]
    return greedy(within or [first], first, config.portfolio, arena.samples, config.by)


def greedy(trials: Sequence[Trial], first: Trial, size: int, samples: int, by: ChosenBy) -> list[Trial]:
    """The members, in the order in which they are tried.

    Args:
        trials: the candidates.
        first: the best candidate alone, which opens the portfolio.
        size: how many tries.
        samples: seeds per state in the trials, as many as tries at least.
        by: who says what recovered.
    """
    assert size <= samples, "every try of a walk has a seed of its own"
    tries = [first]
    while len(tries) < size:
        tries.append(max(trials, key=lambda trial: sum(walks([*tries, trial], samples, by))))
    return tries


def walks(tries: Sequence[Trial], samples: int, by: ChosenBy) -> list[bool]:
    """Whether each (state, seed) recovers within the tries: the first step that passes is taken, else the last one.

    Args:
        tries: the trial of the prefix of each try, in order.
        samples: seeds per state in the trials.
        by: who says what recovered.
    """
    return [
        _walk(tries, by, [state * samples + (sample + b) % samples for b in range(len(tries))])
        for state in range(len(tries[0].recovered) // samples)
        for sample in range(samples)
    ]


def recovery_within(arena: Arena, tries: Sequence[Trial]) -> Observations:
    """The same by the judge, as observations, to be compared with other tries at the same states."""
    return arena.observe_drifted(walks(tries, arena.samples, "judge"))


def _walk(tries: Sequence[Trial], by: ChosenBy, places: Sequence[int]) -> bool:
    for trial, place in zip(tries[:-1], places[:-1], strict=True):
        if trial.passed[place]:
            return trial.safe_by(by)[place]
    return tries[-1].safe_by(by)[places[-1]]
