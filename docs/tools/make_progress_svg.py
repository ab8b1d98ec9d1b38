"""`python -m docs.tools.make_progress_svg`: the figure of docs/results.md, from the curves that a bench has written.

`python -m tests.benchmarks search_progress` comes first. Every line is a seed: the least loss over forwarded tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

CURVES: Final = Path("runs/bench/search_progress_curves.json")
FIGURE: Final = Path("docs/search.svg")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 56, 16, 40, 48
COLOURS: Final = {"nanogcg": "#b45309", "ours": "#1d4ed8"}
NAMES: Final = {"nanogcg": "nanoGCG 0.3.0, 64 candidates", "ours": "gcg, as smollm2-gcg is shipped"}
LOSSES: Final = (1.5, 2.0, 2.5, 3.0, 3.5)
"""Ticks, in nats; the first and the last bound the axis."""
THOUSANDS: Final = (0, 20, 40, 60, 80)
"""Ticks, in thousands of tokens; the last bounds the axis."""

Point = tuple[int, float, float]
"""Forwarded tokens, CPU seconds, and the least loss so far."""


def main() -> None:
    """Write the figure."""
    pairs = json.loads(CURVES.read_text())
    FIGURE.write_text(
        "\n".join([*_frame(), *(_line(pair[who], who) for who in COLOURS for pair in pairs), "</svg>"]) + "\n"
    )


def _x(tokens: float) -> float:
    return LEFT + tokens / (1000 * THOUSANDS[-1]) * (WIDTH - LEFT - RIGHT)


def _y(loss: float) -> float:
    return TOP + (LOSSES[-1] - loss) / (LOSSES[-1] - LOSSES[0]) * (HEIGHT - TOP - BOTTOM)


def _line(curve: Sequence[Point], who: str) -> str:
    """A staircase: a loss holds until a smaller one is found."""
    steps = [f"M{_x(curve[0][0]):.1f} {_y(curve[0][2]):.1f}"]
    steps += [f"H{_x(tokens):.1f}V{_y(loss):.1f}" for tokens, _, loss in curve[1:]]
    return f'<path d="{"".join(steps)}" fill="none" stroke="{COLOURS[who]}" stroke-width="1.8"/>'


def _frame() -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#334155">'
    )
    yield "<title>Least loss over forwarded tokens, three seeds each</title>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    for loss in LOSSES:
        yield f'<path d="M{LEFT} {_y(loss):.1f}H{WIDTH - RIGHT}" stroke="#e2e8f0"/>'
        yield f'<text x="{LEFT - 8}" y="{_y(loss) + 4:.1f}" text-anchor="end">{loss}</text>'
    for thousands in THOUSANDS:
        place = f'x="{_x(1000 * thousands):.1f}" y="{HEIGHT - BOTTOM + 20}"'
        anchor = "end" if thousands == THOUSANDS[-1] else "middle"
        yield f'<text {place} text-anchor="{anchor}">{thousands * 1000:,}</text>'
    middle = f'x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle"'
    yield f"<text {middle}>forwarded tokens, gradients counted twice</text>"
    yield f'<text x="{LEFT}" y="20">least loss, nats per token</text>'
    for row, who in enumerate(COLOURS):
        y = TOP + 16 + 20 * row
        yield f'<path d="M{WIDTH - 250} {y - 4}h22" stroke="{COLOURS[who]}" stroke-width="2.5"/>'
        yield f'<text x="{WIDTH - 222}" y="{y}">{NAMES[who]}</text>'


if __name__ == "__main__":
    main()
