"""The report and the table of an ablation: what they say, escape, and leave out."""

from __future__ import annotations

import pytest
from rich.console import Console

from optimize.ablation import figures, report, report_columns
from optimize.ablation.config import AblationConfig
from optimize.ablation.report import table
from optimize.ablation.results import Ablation, Point
from safethink.evaluation.statistics import Estimate

EVIL = "<script>alert(1)</script> & more"
AXES = ("search.length", "selection.by")


def share(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, n=40, clusters=8)


def point(method: str, length: int, by: str | None, recovery: float, **changes: object) -> Point:
    values = {
        "method": method,
        "place": {"search.length": length, "selection.by": by},
        "label": f"length={length}, by={by}",
        "seeds": (0, 1),
        "metrics": {"recovery_rate": share(recovery), "lift": share(-0.004)},
        "against": {} if method == "random" else {"random": {"recovery_rate": share(0.2)}},
        "reference": {"nothing": {"recovery_rate": share(0.3)}, "undefended": {}},
        "best": f"{method}-{length}",
        "texts": (EVIL,),
        "tokens": 1234567,
        "learned": {"recovery_rate_by_monitor": share(0.9)},
        "test": {"asr_answer": share(0.11), "nll": Estimate(7.5, 7.0, 8.0, n=9, clusters=3)},
    }
    return Point.model_validate(values | changes)


@pytest.fixture
def config() -> AblationConfig:
    return AblationConfig.model_validate(
        {
            "base": {"run": {"reasoner": {"path": "testbed"}}, "search": {"kind": "gcg", "budget_tokens": 5000}},
            "axes": {"search.length": [1, 2], "selection.by": ["judge", "monitor"]},
            "methods": {"random": {"set": {"search.kind": "random"}}, "gcg": {}, "written": {"phrases": [EVIL]}},
            "controls": ["random"],
        }
    )


@pytest.fixture
def ablation() -> Ablation:
    points = (
        point("random", 1, "judge", 0.4, test={}),
        point("random", 2, "judge", 0.5),
        point("gcg", 1, "judge", 0.6, metrics={"lift": share(0.3)}),
        point("gcg", 2, "judge", 0.7),
        point("gcg", 2, "monitor", 0.65, tokens=0),
    )
    failures = {"written-length=1": f"{EVIL} died"}
    return Ablation(axes=AXES, methods=("random", "gcg"), cells=(), points=points, num_cells=12, failures=failures)


def test_the_page_says_everything_and_escapes_it(config: AblationConfig, ablation: Ablation) -> None:
    page = report.render(config, ablation)
    main = page[page.index("<main>") :]
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more died" in main
    for said in (
        "0 of 12 cells",
        "Recovery rate",
        "recovery vs random",
        "1,234,567",
        "5,000 tokens",
        "synthetic testbed",
    ):
        assert said in main
    assert "7.50" in main  # The NLL on test.
    assert "−0.00" not in main


def test_the_headline_names_the_best_and_what_it_is_compared_with(ablation: Ablation) -> None:
    said = report.headline(ablation, max_forced_loss=0.05)
    assert "Of 4 points, gcg at length=2, by=judge recovers most" in said
    assert "70.0% (60.0% to 80.0%, n = 40); nothing injected, 30.0%" in said
    assert "+20.0% against random" in said


def test_the_headline_calls_nothing_the_best_that_costs_harmless_prompts_too_much(ablation: Ablation) -> None:
    def at(length: int, recovery: float, fall: float) -> Point:
        numbers = {"recovery_rate": share(recovery), "accuracy_forced_change": share(-fall)}
        return point("gcg", length, None, recovery, metrics=numbers)

    some = ablation.replace(points=(at(1, 0.7, 0.0), at(2, 0.9, 0.3)))
    said = report.headline(some, max_forced_loss=0.05)
    assert said.startswith("Of the 1 of 2 points that cost harmless prompts no more than 5%, gcg at length=1")
    none = ablation.replace(points=(at(1, 0.7, 0.2), at(2, 0.9, 0.3)))
    said = report.headline(none, max_forced_loss=0.05)
    assert said.startswith("All 2 points cost harmless prompts more than 5%; gcg at length=1, by=None costs them least")


def test_without_recovery_the_lowest_asr_is_the_best(ablation: Ablation) -> None:
    points = (
        point("gcg", 1, None, 0.0, metrics={"asr_answer": share(0.4)}),
        point("gcg", 2, None, 0.0, metrics={"asr_answer": share(0.2)}),
    )
    assert "gcg at length=2, by=None has the lowest ASR" in report.headline(
        ablation.replace(points=points), max_forced_loss=0.05
    )


def test_without_cells_there_is_a_page_all_the_same(config: AblationConfig, ablation: Ablation) -> None:
    empty = ablation.replace(points=())
    assert "No cell is finished" in report.render(config, empty)
    assert table(empty).row_count == 0


def test_the_overview_has_a_shade_for_every_number_and_a_gap_elsewhere(ablation: Ablation) -> None:
    column = report.main_column(ablation)
    assert column is not None
    rows = report.overview(ablation, column)
    assert list(rows) == ["random, by judge", "gcg, by judge", "gcg, by monitor"]
    assert [heat.shade for heat in rows["random, by judge"]] == pytest.approx([0.0, 1 / 3])
    assert [heat.shade for heat in rows["gcg, by judge"]] == [0.0, 1.0]
    assert rows["gcg, by judge"][0].estimate is None
    assert rows["gcg, by monitor"][0].point is None


def test_a_figure_has_a_line_for_each_method_and_one_for_nothing(ablation: Ablation) -> None:
    column = report.main_column(ablation)
    assert column is not None
    traces = figures.curve(ablation, column, controls=("random",)).to_dict()["data"]
    by_name = {trace["name"]: trace for trace in traces}
    assert list(by_name) == ["nothing injected", "random, by judge", "gcg, by judge", "gcg, by monitor"]
    assert by_name["random, by judge"]["line"]["color"] in figures.GREYS
    assert list(by_name["random, by judge"]["y"]) == [0.4, 0.5]
    assert list(by_name["random, by judge"]["error_y"]["array"]) == pytest.approx([0.1, 0.1])
    assert list(by_name["nothing injected"]["y"]) == [0.3] * 4
    # Points of one place stand beside each other.
    assert len({trace["x"][-1] for trace in traces[1:]}) == 3


def test_every_column_is_explained() -> None:
    for column in (*report_columns.VALIDATION, *report_columns.CHOSEN, *report_columns.TEST):
        assert column.heading
        assert column.meaning


def test_the_terminal_gets_what_it_has_room_for(ablation: Ablation) -> None:
    console = Console(width=104)
    with console.capture() as capture:
        console.print(table(ablation))
    said = capture.get()
    assert "…" not in said
    assert all(word in said for word in ("random", "gcg", "recovery", "NLL", "0.70", "0.60–0.80"))
