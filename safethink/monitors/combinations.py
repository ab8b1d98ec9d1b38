"""Monitors that ask other monitors: combinations of several, and a recorder of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import cast

from safethink.errors import ConfigError
from safethink.files import json_hash
from safethink.models.numerics import Numerics
from safethink.monitors import (
    FittedMonitor,
    Monitor,
    ScoreRequest,
    alone,
    fail_closed,
    fingerprint_of,
    layer_read_by,
    num_unread,
    numerics_of,
    pools,
    reads_text,
    tokens_read,
)


class Combination:
    """Base of the combinations: their members, and the hidden state of the reasoner that those read.

    Attributes:
        members: the monitors that are combined.
        layer: the hidden state that members read, see `StateMonitor`; None where none does.
    """

    def __init__(self, members: Sequence[Monitor]) -> None:
        """Combine `members`.

        Raises:
            ConfigError: there are none, or two read hidden states of different layers.
        """
        if not members:
            raise ConfigError("a combination needs members")
        layers = sorted({layer for layer in map(layer_read_by, members) if layer is not None})
        if len(layers) > 1:
            raise ConfigError(
                f"members of a combination read the reasoner's hidden states at different layers ({layers[0]} and "
                f"{layers[1]}); an engine shows one"
            )
        self.members = tuple(members)
        self.layer = layers[0] if layers else None

    @property
    def reads_text(self) -> bool:
        """Whether any member reads the text of the trace."""
        return any(map(reads_text, self.members))

    @property
    def pools(self) -> bool:
        """Whether any member pools over the tokens of the trace."""
        return any(map(pools, self.members))

    def num_unread(self, row: int, ids: tuple[int, ...]) -> int:
        """Number of last tokens of a trace whose states some member needs."""
        return max(num_unread(member, row, ids) for member in self.members)

    @cached_property
    def fingerprint(self) -> str | None:
        """Hash of the members' weights; None where none has any."""
        hashes = [fingerprint_of(member) for member in self.members]
        return json_hash(hashes) if any(hashes) else None

    @property
    def numerics(self) -> tuple[Numerics, ...]:
        """Numerical settings of the members' models."""
        return tuple(each for member in self.members for each in numerics_of(member))

    def refuse_other(self, is_reasoner: Callable[[str], bool]) -> None:
        """Refuse another reasoner than the one that members were trained on; see `FittedMonitor`.

        Raises:
            ArtifactError: it is another one.
        """
        for member in self.members:
            if isinstance(member, FittedMonitor):
                member.refuse_other(is_reasoner)

    def tokens_read(self, row: int) -> int | None:
        """Sum of the tokens that the members asked had to read; None where none of them says."""
        counts = [count for member in self.members if (count := tokens_read(member, row)) is not None]
        return sum(counts) if counts else None

    def alone(self) -> Monitor:
        """The combination of the members as each scores a single text."""
        combined = copy(self)
        combined.members = tuple(map(alone, self.members))
        return cast("Monitor", combined)

    def release(self, row: int) -> None:
        """Let every member forget what it cached for `row`."""
        for member in self.members:
            member.release(row)


class MinMonitor(Combination):
    """The lowest of the members' scores."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: if a member fails.
        """
        return [min(scores) for scores in zip(*_all_scores(self.members, requests), strict=True)]


class MeanMonitor(Combination):
    """The mean of the members' scores."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: if a member fails.
        """
        return [fmean(scores) for scores in zip(*_all_scores(self.members, requests), strict=True)]


class CascadeMonitor(Combination):
    """The first member's score where that is sure, else the next one's; the last one's counts in any case.

    A member that was not asked about a step catches up on it when it is asked later.
    """

    def __init__(self, members: Sequence[Monitor], low: float = -0.5, high: float = 0.5) -> None:
        """Ask `members` in turn.

        Args:
            members: the cheap ones first.
            low: a score below it is sure.
            high: a score above it is sure.

        Raises:
            ConfigError: as `Combination`.
        """
        super().__init__(members)
        self._low, self._high = low, high

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order.

        Raises:
            MonitorError: if a member fails.
        """
        scores = dict.fromkeys(range(len(requests)), 0.0)
        unsure = list(scores)
        for member in self.members:
            if not unsure:
                break
            asked = fail_closed.score(member, [requests[index] for index in unsure])
            scores |= dict(zip(unsure, asked, strict=True))
            unsure = [index for index in unsure if self._low <= scores[index] <= self._high]
        return list(scores.values())


def _all_scores(members: Sequence[Monitor], requests: Sequence[ScoreRequest]) -> list[list[float]]:
    """Every member's scores, checked: a NaN would get lost among others."""
    return [fail_closed.score(member, requests) for member in members]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One thing the monitor read, and what it said.

    Attributes:
        trace: the partial trace it was fed.
        score: its score.
    """

    trace: str
    score: float


class RecordingMonitor:
    """Scores as another monitor does, and remembers.

    Attributes:
        readings: everything it was asked, in order.
    """

    def __init__(self, monitor: Monitor) -> None:
        """Listen in on `monitor`."""
        self.readings: list[Recorded] = []
        self._monitor = monitor

    @property
    def layer(self) -> int | None:
        """Index of the reasoner's hidden state that the monitor reads; None for none."""
        return layer_read_by(self._monitor)

    @property
    def pools(self) -> bool:
        """Whether the monitor pools over the tokens of the trace."""
        return pools(self._monitor)

    def num_unread(self, row: int, ids: tuple[int, ...]) -> int:
        """Number of last tokens of a trace whose states the monitor needs."""
        return num_unread(self._monitor, row, ids)

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Score as the monitor does."""
        scores = self._monitor.score(requests)
        pairs = zip(requests, scores, strict=True)
        self.readings += [Recorded(request.trace, score) for request, score in pairs]
        return scores

    def release(self, row: int) -> None:
        """Forget what was cached for `row`; the readings stay."""
        self._monitor.release(row)

    def refuse_other(self, is_reasoner: Callable[[str], bool]) -> None:
        """Refuse what the monitor refuses."""
        if isinstance(self._monitor, FittedMonitor):
            self._monitor.refuse_other(is_reasoner)

    def tokens_read(self, row: int) -> int | None:
        """Number of tokens that the monitor read for the last score of `row`; None where it does not say."""
        return tokens_read(self._monitor, row)
