"""The figures of the report, as plotly figures."""

# plotly has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import DepthPoint, Summary
from safethink.evaluation.table import benchmark_names, outcome_names

TRIAL, OTHER, INK, GRID = "#0072b2", "#9aa5b1", "#1f2933", "#e4e7eb"
"""Blue for the prefix on trial, grey for the rest; told apart by lightness alone as well."""
OUTCOME_COLORS: Final = {
    "harmful": "#d55e00",
    "refusal": "#56b4e9",
    "helpful": "#009e73",
    "invalid": "#c4ccd4",
    "unjudged": "#f0e442",
}
"""After Okabe and Ito, told apart by the colour-blind."""
PANELS: Final = 4
"""Panels side by side."""
LABELLED: Final = 0.07
"""Share from which on a bar has room for its number."""
FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One step of the search, as the artifact's log has it.

    Attributes:
        restart: which start.
        step: steps since it.
        cost: total cost of the incumbent.
        text: the incumbent.
    """

    restart: int
    step: int
    cost: float
    text: str


def bars(
    summary: Summary,
    column: str,
    title: str,
    trial: str | None,
    predicted: str | None = None,
    beside: str | None = None,
) -> go.Figure:
    """Horizontal bars of one column with intervals, a row of the table each.

    Args:
        summary: where the numbers are.
        column: which.
        title: of the axis.
        trial: name of the row on trial, which is coloured.
        predicted: column whose exact values are marked beside the measured ones.
        beside: column stacked on the measured one, such as the share of outputs that the judge could say nothing of.
    """
    shown = [(row, cells[column]) for row, cells in summary.rows.items()]
    known = [(row, estimate) for row, estimate in shown if estimate is not None]
    figure = blank()
    figure.add_bar(
        name="measured",
        y=[row for row, _ in known],
        x=[estimate.value for _, estimate in known],
        orientation="h",
        marker_color=[TRIAL if row == trial else OTHER for row, _ in known],
        error_x=error_bars([estimate for _, estimate in known]),
        width=0.62,
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    unknown = [(row, summary.rows[row].get(beside)) for row, _ in known] if beside else []
    shares = [(row, estimate.value) for row, estimate in unknown if estimate is not None]
    if shares:
        figure.add_bar(
            name="invalid",
            y=[row for row, _ in shares],
            x=[value for _, value in shares],
            orientation="h",
            marker_color=OUTCOME_COLORS["invalid"],
            marker_pattern_shape="/",
            width=0.62,
            hovertemplate="%{y}: %{x:.3f} invalid<extra></extra>",
        )
        figure.update_layout(barmode="stack")
    exact = [(row, cells[predicted]) for row, cells in summary.rows.items()] if predicted else []
    points = [(row, estimate.value) for row, estimate in exact if estimate is not None]
    if points:
        figure.add_scatter(
            name="predicted",
            y=[row for row, _ in points],
            x=[value for _, value in points],
            mode="markers",
            marker={"symbol": "diamond", "size": 10, "color": "white", "line": {"color": INK, "width": 2}},
            hovertemplate="%{y}: exactly %{x:.3f}<extra></extra>",
        )
    for row, estimate in known:
        figure.add_annotation(x=1, y=row, xref="paper", xanchor="left", text=f" {estimate.value:.2f}", showarrow=False)
    figure.update_yaxes(autorange="reversed", ticksuffix="  ", showgrid=False)
    figure.update_xaxes(range=[0, 1.02], title=title, tickformat=".0%")
    finish(figure, height=100 + 34 * max(3, len(known)), legend=bool(points or shares))
    return figure.update_layout(margin_r=44, legend_traceorder="normal")


def outcomes(summary: Summary) -> go.Figure:
    """Share of each outcome, stacked; one panel per benchmark, few of them side by side so that a page holds them."""
    names = benchmark_names(summary)
    width = min(len(names), PANELS) or 1
    height = -(-len(names) // width) or 1
    rows = list(summary.outcomes)
    figure = _panels(names, width, height, len(rows))
    for outcome in outcome_names(summary):
        color = OUTCOME_COLORS[outcome]
        for place, benchmark in enumerate(names):
            shares = [summary.outcomes[row][benchmark][outcome] for row in rows]
            values = [0.0 if share is None else share.value for share in shares]
            figure.add_bar(
                name=outcome,
                y=rows,
                x=values,
                orientation="h",
                marker_color=color,
                showlegend=place == 0,
                width=0.74,
                text=[f"{100 * value:.0f}" if value >= LABELLED else "" for value in values],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"size": 11, "color": INK},
                hovertemplate="%{y}: %{x:.1%} " + outcome + "<extra></extra>",
                row=place // width + 1,
                col=place % width + 1,
            )
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed", ticksuffix="  ", showgrid=False)
    figure.update_xaxes(range=[0, 1], tickformat=".0%", tickvals=[0, 0.5])
    finish(figure, height=90 + height * _panel_height(len(rows)), legend=True)
    above = 1 + 24 / (height * _panel_height(len(rows)))
    return figure.update_layout(margin_t=66, legend_y=above, legend_traceorder="normal")


def depth(points: Sequence[DepthPoint]) -> go.Figure:
    """ASR against `max_steered_steps`: measured with intervals, and as the process predicts."""
    figure = blank()
    steps = [point.max_steered_steps for point in points]
    figure.add_scatter(
        name="measured",
        x=steps,
        y=[point.measured.value for point in points],
        error_y=error_bars([point.measured for point in points]),
        mode="lines+markers",
        line={"color": TRIAL, "width": 3},
        marker={"size": 9},
        hovertemplate="%{x} steps: %{y:.3f}<extra></extra>",
    )
    exact = [(point.max_steered_steps, point.predicted) for point in points if point.predicted is not None]
    if exact:
        figure.add_scatter(
            name="predicted",
            x=[step for step, _ in exact],
            y=[value for _, value in exact],
            mode="lines+markers",
            line={"color": INK, "width": 2, "dash": "dot"},
            marker={"symbol": "diamond-open", "size": 10},
            hovertemplate="%{x} steps: exactly %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(title="max_steered_steps", tickvals=steps, showgrid=False)
    figure.update_yaxes(title="ASR on the answer", rangemode="tozero", tickformat=".0%")
    return finish(figure, height=340, legend=bool(exact))


def search_curve(steps: Sequence[SearchStep]) -> go.Figure:
    """Cost of the incumbent at every step of the search, one line per start."""
    figure = blank()
    dashes = ("solid", "dash", "dot", "dashdot")
    for restart in sorted({step.restart for step in steps}):
        own = [step for step in steps if step.restart == restart]
        color = TRIAL if restart == 0 else "#52606d"
        figure.add_scatter(
            name=f"start {restart + 1}",
            x=[step.step for step in own],
            y=[step.cost for step in own],
            customdata=[step.text for step in own],
            mode="lines",
            line={
                "color": color,
                "width": 2.5,
                "dash": dashes[restart % 4],
                "shape": "hv",
            },
            hovertemplate="step %{x}: %{y:.3f}<br>%{customdata}<extra></extra>",
        )
    figure.update_xaxes(title="search step", showgrid=False)
    figure.update_yaxes(title="cost of the incumbent")
    return finish(figure, height=340, legend=True)


def fit(figure: Any) -> Any:
    """A figure of another library, as wide as its page; dotted keys under its axes keep their last part."""
    figure.update_layout(width=None)
    for axis in figure.select_xaxes():
        axis.title.text = str(axis.title.text or "").rpartition(".")[2]
    return figure


def to_html(figure: Any, name: str) -> str:
    """The figure as a piece of HTML that expects plotly.js on its page."""
    return figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config={"displayModeBar": False, "responsive": True}
    )


def plotly_js() -> str:
    """The source of plotly.js, as the installed plotly ships it."""
    return files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def blank() -> Any:
    """An empty figure."""
    # Plotly's methods have no types; neither has what calls them.
    return go.Figure()


def _panels(titles: Sequence[str], width: int, height: int, bars: int) -> Any:
    gap = min(62 / (height * _panel_height(bars)), 1 / max(1, height - 1))
    return make_subplots(
        height, width, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03, vertical_spacing=gap
    )


def _panel_height(bars: int) -> int:
    """Pixels of a panel with so many bars, title and ticks included."""
    return 62 + 27 * bars


def error_bars(estimates: Sequence[Estimate]) -> dict[str, Any]:
    """The intervals of estimates, as plotly takes them."""
    return {
        "type": "data",
        "array": [estimate.high - estimate.value for estimate in estimates],
        "arrayminus": [estimate.value - estimate.low for estimate in estimates],
        "color": INK,
        "thickness": 1.5,
        "width": 4,
    }


def finish(figure: Any, height: int, legend: bool) -> go.Figure:
    """Give a figure the look that all figures share."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 8, "r": 16, "t": 30 if legend else 8, "b": 8},
        font={"family": FONT, "size": 13, "color": INK},
        showlegend=legend,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    figure.update_xaxes(automargin=True, gridcolor=GRID, zerolinecolor=GRID)
    figure.update_yaxes(automargin=True, gridcolor=GRID, zerolinecolor=GRID)
    return figure
