"""Monitors score (prompt, partial trace): the safety reward model of the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from safethink.prompts import Prompt
from safethink.states import HiddenState


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One row of a batch handed to a monitor.

    Attributes:
        row: a stable key; the monitor may keep what it has read of this row under it between calls.
        prompt: what the reasoner was asked, attack text included.
        trace: the partial trace as text, without opening or closing tags and without injected tokens.
        state: the reasoner's hidden state at the last token of the trace, for a monitor that asks for it; see
            `StateMonitor`.
    """

    row: int
    prompt: Prompt
    trace: str
    state: HiddenState | None = None


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
        """Which hidden state each request must carry, as transformers counts them: 0 is the embedding, -1 the last.

        None where none is needed after all, as in a combination of monitors that read text.
        """
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


def layer_read_by(monitor: Monitor | None) -> int | None:
    """Which of the reasoner's hidden states `monitor` reads; None for none."""
    return monitor.layer if isinstance(monitor, StateMonitor) else None
