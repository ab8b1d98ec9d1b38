"""A result on a terminal: tokens coloured by origin, the interventions, and what the monitor was fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from safethink.monitors import Monitor, ScoreRequest, layer_read_by
from safethink.tokens import Tokens

if TYPE_CHECKING:
    from safethink.result import Result

Decode = Callable[[Sequence[int]], str]
"""Token ids to text."""

SAMPLED_STYLES = ("", "on grey15")
"""Taken in turn, so that neighbouring tokens can be told apart."""
INJECTED_STYLE = "bold magenta"
OPEN_MARK, CLOSE_MARK = "⟦", "⟧"
"""Around injected tokens, for terminals and files without colour."""
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing the monitor read, and what it said.

    Attributes:
        trace: the partial trace it was fed.
        score: its score.
    """

    trace: str
    score: float


class RecordingMonitor:
    """A monitor that remembers what it was fed.

    Attributes:
        readings: everything it was asked, in order.
    """

    def __init__(self, monitor: Monitor) -> None:
        """Listen in on `monitor`."""
        self.readings: list[Reading] = []
        self._monitor = monitor

    @property
    def layer(self) -> int | None:
        """Which of the reasoner's hidden states the monitor reads; None for none."""
        return layer_read_by(self._monitor)

    def score(self, requests: Sequence[ScoreRequest]) -> list[float]:
        """Score as the monitor does."""
        scores = self._monitor.score(requests)
        pairs = zip(requests, scores, strict=True)
        self.readings += [Reading(request.trace, score) for request, score in pairs]
        return scores

    def release(self, row: int) -> None:
        """Forget what was cached for `row`; the readings stay."""
        self._monitor.release(row)


def outcome(result: Result, decode: Decode) -> RenderableType:
    """The trace with what was injected, the interventions, and the answer."""
    end = "" if result.closed else " (the thinking never closed)"
    parts: list[RenderableType] = [
        Panel(coloured(result.verdict.trace, decode), title=f"trace{end}", title_align="left"),
        Panel(coloured(result.verdict.answer, decode), title="answer", title_align="left"),
    ]
    if result.interventions:
        parts.append(interventions(result))
    return Group(*parts)


def inspection(result: Result, decode: Decode, readings: Sequence[Reading]) -> RenderableType:
    """All there is to see: the prompt as the reasoner read it, the outcome, and what the monitor was fed."""
    legend = Text.assemble(
        "sampled by the reasoner  ", (f"{OPEN_MARK}injected by the defense{CLOSE_MARK}", INJECTED_STYLE)
    )
    prompt = Panel(Text(visible(decode(result.prompt_ids)), style="dim"), title="prompt", title_align="left")
    return Group(legend, prompt, outcome(result, decode), fed(readings))


def coloured(tokens: Tokens, decode: Decode) -> Text:
    """Tokens as text, coloured by who put them there."""
    text = Text()
    place = 0
    for forced, pieces in groupby(_pieces(tokens, decode), key=lambda piece: piece[1]):
        text.append(OPEN_MARK if forced else "", style=INJECTED_STYLE)
        for piece, _ in pieces:
            text.append(visible(piece), style=INJECTED_STYLE if forced else SAMPLED_STYLES[place % 2])
            place += 1
        text.append(CLOSE_MARK if forced else "", style=INJECTED_STYLE)
    return text


def interventions(result: Result) -> Table:
    """One line per intervention."""
    table = Table("step", "score before", "score after", "resamples", "prefix", "outcome", title="interventions")
    for note in result.interventions:
        after = "-" if note.score_after is None else f"{note.score_after:+.2f}"
        prefix = Text("-") if note.prefix is None else Text(result.prefixes[note.prefix], style=INJECTED_STYLE)
        table.add_row(str(note.step), f"{note.score_before:+.2f}", after, str(note.resamples), prefix, note.outcome)
    return table


def fed(readings: Sequence[Reading]) -> Table:
    """What the monitor was fed: for each reading, the part in which it differs from the one before."""
    table = Table("score", "same as before", "and then", title="what the monitor read", show_lines=True)
    before = ""
    for reading in readings:
        shared = _num_common(before, reading.trace)
        style = "red" if reading.score < 0 else "green"
        new = reading.trace[shared:].strip()
        table.add_row(Text(f"{reading.score:+.2f}", style=style), f"{shared} characters", Text(visible(new)))
        before = reading.trace
    return table


def visible(text: str) -> str:
    """Control characters as pictures, so that what a model wrote cannot steer the terminal."""
    return text.translate(_PICTURES)


def _num_common(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _pieces(tokens: Tokens, decode: Decode) -> Iterator[tuple[str, bool]]:
    """Each token's own text and whether it was injected; bytes of one character stay together."""
    done = ""
    for index, forced in enumerate(tokens.forced):
        text = decode(tokens.ids[: index + 1])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and index + 1 < len(tokens):
            continue
        yield text[len(done) :], forced
        done = text
