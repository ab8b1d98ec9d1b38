"""A portfolio: an ordered list of prefixes, one per try, chosen so that each recovers what those before it leave.

Under SafeThink try b of an intervention injects prefix b, and the first step that the monitor passes is taken. What a
portfolio recovers within so many tries is read off trials of its members: the trials have several seeds per state, and
every try of a walk uses another one, so that trying the same prefix again is not mistaken for trying it once.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimize.selection import Arena, Trial
from safethink.errors import ConfigError
from safethink.evaluation.statistics import Observations


def greedy(trials: Sequence[Trial], first: int, size: int, samples: int) -> list[int]:
    """Indices of the members, in the order in which they are tried.

    Args:
        trials: the candidates.
        first: the best candidate alone, which opens the portfolio.
        size: how many tries.
        samples: seeds per state in the trials.

    Raises:
        ConfigError: there are fewer seeds per state than tries.
    """
    if size > samples:
        raise ConfigError(
            f"selection.portfolio: {size} tries need as many seeds per state; selection.samples is {samples}"
        )
    members = [first]
    while len(members) < size:
        values = [sum(walks([trials[i] for i in (*members, index)], samples)) for index in range(len(trials))]
        members.append(max(range(len(trials)), key=values.__getitem__))
    return members


def walks(tries: Sequence[Trial], samples: int) -> list[bool]:
    """Whether each (state, seed) recovers within the tries: the first step that passes is taken, else the last one.

    Args:
        tries: the trial of the prefix of each try, in order.
        samples: seeds per state in the trials.
    """
    return [
        _walk(tries, [state * samples + (sample + b) % samples for b in range(len(tries))])
        for state in range(len(tries[0].recovered) // samples)
        for sample in range(samples)
    ]


def recovery_within(arena: Arena, tries: Sequence[Trial]) -> Observations:
    """The same as observations, to be compared with other tries at the same states."""
    return arena.observe_drifted(walks(tries, arena.samples))


def _walk(tries: Sequence[Trial], places: Sequence[int]) -> bool:
    for trial, place in zip(tries[:-1], places[:-1], strict=True):
        if trial.passed[place]:
            return trial.recovered[place]
    return tries[-1].recovered[places[-1]]
