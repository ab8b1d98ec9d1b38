"""The figures of an ablation: a number along the first axis, one line per method."""

# plotly has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import plotly.graph_objects as go

from optimize.ablation.grid import shown
from optimize.ablation.report_columns import REFERENCES, Column
from optimize.ablation.results import Ablation, Point
from safethink.evaluation.figures import INK, blank, error_bars, finish
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.table import DIGITS

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#1f2933")
"""After Okabe and Ito, told apart by the colour-blind; symbols and dashes tell the lines apart without colour."""
SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "triangle-down")
GREYS: Final = ("#8a94a0", "#b4bcc6")
SPREAD: Final = 0.5
"""Horizontal distance between the points of one place, so that their intervals do not cover each other."""


def lines(ablation: Ablation) -> dict[str, list[Point]]:
    """Points by line: one per method and value of every other axis, along the first one."""
    out: dict[str, list[Point]] = {}
    for point in ablation.points:
        out.setdefault(line_name(ablation, point), []).append(point)
    return out


def line_name(ablation: Ablation, point: Point) -> str:
    """Label of a line: its method, and its values on the other axes."""
    others = [f"{axis.rpartition('.')[2]} {shown(point.place[axis])}" for axis in ablation.axes[1:]]
    return ", ".join([point.method, *others])


def places(ablation: Ablation) -> list[str]:
    """Values of the first axis, in their order."""
    return list(dict.fromkeys(shown(point.place[ablation.axes[0]]) for point in ablation.points))


def curve(ablation: Ablation, column: Column, controls: Sequence[str]) -> go.Figure:
    """One column along the first axis, with intervals; controls in grey, the reference dotted.

    Args:
        ablation: where the numbers are.
        column: which.
        controls: methods drawn in grey.
    """
    figure, names = blank(), lines(ablation)
    ticks = places(ablation)
    if column.reference is not None:
        _draw_reference(figure, ablation, column, ticks)
    styles = _styles(names, ablation, controls)
    for index, (name, points) in enumerate(names.items()):
        known = [(point, estimate) for point in points if (estimate := column.estimate(point)) is not None]
        offset = SPREAD * (index / max(1, len(names) - 1) - 0.5)
        figure.add_scatter(
            name=name,
            x=[ticks.index(shown(point.place[ablation.axes[0]])) + offset for point, _ in known],
            y=[estimate.value for _, estimate in known],
            error_y=error_bars([estimate for _, estimate in known]) | {"color": styles[name]["color"], "width": 2},
            customdata=[_told(point, estimate) for point, estimate in known],
            mode="lines+markers",
            line={"color": styles[name]["color"], "width": 2, "dash": styles[name]["dash"]},
            marker={"size": 8, "symbol": styles[name]["symbol"]},
            hovertemplate=f"{name}, %{{customdata}}<extra></extra>",
        )
    is_share = column.name not in DIGITS
    figure.update_xaxes(
        title=ablation.axes[0], tickvals=list(range(len(ticks))), ticktext=ticks, showgrid=False, zeroline=False
    )
    figure.update_yaxes(rangemode="tozero", tickformat=".0%" if is_share else None)
    finish(figure, height=400, legend=True)
    return figure.update_layout(margin_t=30 + 20 * (len(names) // 4), legend_y=1.03)


def _draw_reference(figure: Any, ablation: Ablation, column: Column, ticks: Sequence[str]) -> None:
    """A dotted line through what needs no prefix."""
    found: dict[str, float] = {}
    for point in ablation.points:
        estimate = point.reference.get(column.reference or "", {}).get(column.name)
        if estimate is not None:
            found.setdefault(shown(point.place[ablation.axes[0]]), estimate.value)
    if not found:
        return
    at = [(ticks.index(tick), value) for tick, value in found.items()]
    # Over the whole width of a place, so that one place alone has a line too.
    figure.add_scatter(
        name=REFERENCES[column.reference or ""],
        x=[x + side for x, _ in at for side in (-SPREAD, SPREAD)],
        y=[value for _, value in at for _ in range(2)],
        mode="lines",
        line={"color": INK, "width": 1.5, "dash": "dot"},
        hovertemplate="%{y:.3f}<extra></extra>",
    )


def _styles(names: dict[str, list[Point]], ablation: Ablation, controls: Sequence[str]) -> dict[str, dict[str, str]]:
    """Colour, dash and symbol of each line: the colour is the method's where that tells lines apart."""
    styles: dict[str, dict[str, str]] = {}
    greys, colors = 0, 0
    for index, (name, points) in enumerate(names.items()):
        if points[0].method in controls:
            color, dash, greys = GREYS[greys % len(GREYS)], "dash", greys + 1
        else:
            color, dash, colors = COLORS[colors % len(COLORS)], "solid", colors + 1
        styles[name] = {"color": color, "dash": dash, "symbol": SYMBOLS[index % len(SYMBOLS)]}
    return styles


def _told(point: Point, estimate: Estimate) -> str:
    return f"{point.label}: {estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), n = {estimate.n}"
