"""Monitors score (prompt, partial trace): the safety reward model of the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from safethink.engines import HiddenState, TokenStates
from safethink.models.numerics import Numerics
from safethink.prompts import Prompt


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One row of a batch handed to a monitor.

    Attributes:
        row: a stable key; the monitor may keep what it has read of this row under it between calls.
        prompt: what the reasoner was asked, attack text included.
        trace: the partial trace as text, without opening or closing tags and without injected tokens; empty for a
            monitor that reads none, see `WordlessMonitor`.
        state: the reasoner's hidden state at the last token of the trace, for a monitor that asks for it; see
            `StateMonitor`.
        ids: all that stands behind the prompt as token ids, injected ones included; empty for a monitor that reads no
            hidden states.
        states: the hidden states of the last of these tokens, for a monitor that pools over them; see `PoolingMonitor`.
    """

    row: int
    prompt: Prompt
    trace: str
    state: HiddenState | None = None
    ids: tuple[int, ...] = ()
    states: TokenStates | None = None


@runtime_checkable
class Monitor(Protocol):
    """Scores batches of (prompt, partial trace) in [-1, 1]; higher is safer."""

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """One score per request, in order."""
        ...

    def release(self, row: int) -> None:
        """Forget what was cached for `row`."""
        ...


@runtime_checkable
class StateMonitor(Monitor, Protocol):
    """A monitor that reads the reasoner's own hidden states, so injected tokens too. Only some engines show them."""

    @property
    def layer(self) -> int | None:
        """Index of the hidden state each request must carry, as in transformers: 0 is the embedding, -1 the last.

        None where none is needed after all, as in a combination of monitors that read text.
        """
        ...


@runtime_checkable
class PoolingMonitor(StateMonitor, Protocol):
    """A monitor that pools over the hidden states of the trace's tokens. Only some engines show more than the last."""

    @property
    def pools(self) -> bool:
        """Whether it does after all; where not, requests carry the last token's state alone."""
        ...

    def num_unread(self, row: int, ids: tuple[int, ...]) -> int:
        """Number of last tokens whose states the next request of `row` must carry, if it is about the trace `ids`."""
        ...


@runtime_checkable
class FittedMonitor(Monitor, Protocol):
    """A monitor that was trained on one reasoner and fits no other; one that combines such monitors is one too."""

    def refuse_other(self, is_reasoner: Callable[[str], bool]) -> None:
        """Refuse another reasoner.

        Args:
            is_reasoner: whether a hash is that of the reasoner's weights, see `fingerprints.model_hash`.

        Raises:
            ArtifactError: it is another one.
        """
        ...


@runtime_checkable
class WordlessMonitor(Monitor, Protocol):
    """A monitor that may do without the text of the trace."""

    @property
    def reads_text(self) -> bool:
        """Whether it reads the text after all; where not, requests carry none."""
        ...


def reads_text(monitor: Monitor) -> bool:
    """Whether `monitor` reads the text of the trace; all do but those that say otherwise."""
    return not isinstance(monitor, WordlessMonitor) or monitor.reads_text


def layer_read_by(monitor: Monitor | None) -> int | None:
    """Index of the reasoner's hidden state that `monitor` reads; None for none."""
    return monitor.layer if isinstance(monitor, StateMonitor) else None


def pools(monitor: Monitor | None) -> bool:
    """Whether `monitor` reads the hidden states of more than the last token."""
    return isinstance(monitor, PoolingMonitor) and monitor.pools


def num_unread(monitor: Monitor | None, row: int, ids: tuple[int, ...]) -> int:
    """Number of last tokens whose states `monitor` needs to score the trace `ids` of `row`, at least one."""
    return max(1, monitor.num_unread(row, ids)) if isinstance(monitor, PoolingMonitor) else 1


@runtime_checkable
class CountingMonitor(Monitor, Protocol):
    """A monitor that says how much it reads."""

    def tokens_read(self, row: int) -> int | None:
        """Tokens that it had to read for the last score of `row`, padding left out: what was cached is not read.

        None where it cannot say after all, as when it stands before a monitor that does not.
        """
        ...


def tokens_read(monitor: Monitor, row: int) -> int | None:
    """Number of the monitor's own tokens read for the last score of `row`; None where it does not say."""
    return monitor.tokens_read(row) if isinstance(monitor, CountingMonitor) else None


@runtime_checkable
class LastingMonitor(Monitor, Protocol):
    """A monitor whose score may depend on the row's scores before; see `persistence`."""

    def alone(self) -> Monitor:
        """The monitor as it scores a single text, which has no scores before it."""
        ...


def alone(monitor: Monitor) -> Monitor:
    """`monitor` as it scores a single text, such as a finished output."""
    return monitor.alone() if isinstance(monitor, LastingMonitor) else monitor


@runtime_checkable
class HashedMonitor(Monitor, Protocol):
    """A monitor that can tell its weights from others; so can a combination of such monitors."""

    @property
    def fingerprint(self) -> str | None:
        """Hash of the weights; None where it has none after all."""
        ...


def fingerprint_of(monitor: Monitor | None) -> str | None:
    """Hash of the weights that `monitor` goes by; None where it has none, or does not tell."""
    return monitor.fingerprint if isinstance(monitor, HashedMonitor) else None


@runtime_checkable
class NumericMonitor(Protocol):
    """A monitor that says with which numerical settings its models were loaded."""

    @property
    def numerics(self) -> tuple[Numerics, ...]:
        """Settings of each of its models that is loaded here."""
        ...


def numerics_of(monitor: object) -> tuple[Numerics, ...]:
    """Numerical settings of the models of `monitor` that are loaded here; none where it does not tell."""
    return monitor.numerics if isinstance(monitor, NumericMonitor) else ()
