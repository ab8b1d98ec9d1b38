"""The table and the report: what they print, what they escape, and that every column is explained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from safethink.benchmarks import Benchmark
from safethink.config import EvalConfig
from safethink.evaluation import report, table, traces
from safethink.evaluation.figures import SearchStep
from safethink.evaluation.metrics import COLUMNS, NAMES
from safethink.evaluation.records import InterventionRecord, Key, Record, Span
from safethink.evaluation.statistics import Estimate
from safethink.evaluation.summary import ContextCounts, DepthPoint, PrefixSummary, Summary
from safethink.prompts import Message, Prompt

ROWS = ("undefended", "safethink_wait_think_safely", "safethink_learned")
EVIL = "<script>alert(1)</script> & more"


@pytest.fixture
def config(tmp_path: Path) -> EvalConfig:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "' + EVIL + '", "id": "p"}\n')
    return EvalConfig.model_validate(
        {
            "run": {"reasoner": {"path": "some/model"}},
            "benchmarks": [{"kind": "jsonl", "path": str(path), "prompts": "jailbreak"}],
            "rows": [
                {"name": ROWS[0], "defense": {"kind": "none"}},
                {"name": ROWS[1], "defense": {"kind": "safethink"}, "prefix": "wait-think-safely"},
                {"name": ROWS[2], "defense": {"kind": "safethink"}},
            ],
            "judge": "refusal",
        }
    )


@pytest.fixture
def summary() -> Summary:
    share = Estimate(0.25, 0.1, 0.4, n=40, clusters=8)
    exact = Estimate(0.2, 0.2, 0.2, n=40, clusters=8)
    cells = dict.fromkeys(NAMES, share) | {"asr_predicted": exact, "lift": Estimate(-0.004, -0.1, 0.1, 40, 8)}
    outcomes = {"mine": dict.fromkeys(("harmful", "refusal", "helpful", "invalid"), share)}
    return Summary(
        prefix=PrefixSummary(path="mine", texts=(EVIL,), test_evaluations=1, learned_sha256="0" * 64),
        rows={ROWS[0]: cells | {"recovery_rate": None, "lift": None}, ROWS[1]: cells, ROWS[2]: cells},
        comparisons={"learned_vs_wait_think_safely": cells, "learned_vs_undefended": cells},
        outcomes=dict.fromkeys(ROWS, outcomes),
        depth_curve=(DepthPoint(max_steered_steps=0, measured=share, predicted=0.3),),
        contexts=ContextCounts(watched=40, fired=20, confirmed=18),
        monitor_rates=None,
        texts={ROWS[0]: (), ROWS[1]: ("Wait, think safely",), ROWS[2]: (EVIL,)},
    )


def record(row: str, outcome: str, dropped: bool) -> Record:
    intervention = InterventionRecord(
        step=1, position=2, score_before=-0.5, score_after=0.5, resamples=2, prefix=0, outcome="recovered"
    )
    return Record.model_validate(
        {
            "phase": "guarded",
            "row": row,
            "benchmark": "mine",
            "prompt": "p",
            "sample": 0,
            "outcome": outcome,
            "spans": [Span(start=0, text="Begin.\n\n"), Span(start=2, text=" Then <b>stop</b>.")],
            "answer": "No & never.",
            "interventions": [intervention] if dropped else [],
        }
    )


@pytest.fixture
def recorded() -> dict[Key, Record]:
    found = [record(ROWS[0], "harmful", False), record(ROWS[1], "harmful", True), record(ROWS[2], "refusal", True)]
    return {each.key: each for each in found}


@pytest.fixture
def html(config: EvalConfig, summary: Summary, recorded: dict[Key, Record]) -> str:
    search = [SearchStep(0, 0, 2.0, EVIL), SearchStep(0, 1, 1.5, EVIL), SearchStep(1, 0, 1.9, EVIL)]
    return report.render(config, summary, recorded, search, show_texts=True)


def test_every_column_is_named_explained_and_marked() -> None:
    assert set(NAMES) == {column.name for column in COLUMNS} | {"asr_predicted", "lift"}
    assert set(table.HEADINGS) == set(report.MEANINGS) == set(report.ORIGINS) == set(NAMES)


def test_the_report_shows_everything(html: str) -> None:
    for name in ("asr", "recovery", "depth", "search", "outcomes"):
        assert f'<div id="{name}"' in html
    assert html.count("<article") == 3
    assert html.index('<div id="outcomes"') < html.index('<div id="asr"')
    assert "step 2 dropped (score -0.50); passed after 2 tries (score +0.50)" in html
    assert "Then &lt;b&gt;stop&lt;/b&gt;." in html
    assert "the judge confirms the drift of 18" in re.sub(r"\s+", " ", html)


def test_words_from_outside_cannot_become_markup(html: str) -> None:
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html


def test_limits_are_those_of_what_was_evaluated(
    config: EvalConfig, summary: Summary, recorded: dict[Key, Record], html: str
) -> None:
    assert "synthetic testbed" not in html
    assert "These numbers hold for this reasoner" in html
    run = config.run.replace(reasoner=config.run.reasoner.replace(path="testbed"))
    on_testbed = report.render(config.replace(run=run), summary, recorded, [])
    assert "This is a synthetic testbed." in on_testbed
    assert '<div id="search"' not in on_testbed
    assert "is not shown" not in on_testbed


LINE = {"restart": 0, "step": 3, "text": "Wait", "cost": {"total": 1.5}, "looked_at": 96}


def test_the_search_is_read_from_its_log(tmp_path: Path) -> None:
    assert report.read_search(tmp_path) == []
    (tmp_path / "search.jsonl").write_text(f"{json.dumps(LINE | {'cost': {}})}\n{json.dumps(LINE)}\n")
    assert report.read_search(tmp_path) == [SearchStep(0, 3, 1.5, "Wait")]


@pytest.mark.slow
@pytest.mark.parametrize("line", [b"{", b"[]", b"\xff", b'{"loss": 2}', json.dumps(LINE | {"cost": {"a": 1}}).encode()])
def test_a_foreign_search_is_left_out_and_the_report_says_so(
    config: EvalConfig, summary: Summary, recorded: dict[Key, Record], tmp_path: Path, line: bytes
) -> None:
    (tmp_path / "search.jsonl").write_bytes(json.dumps(LINE).encode() + b"\n" + line)
    search = report.read_search(tmp_path)
    assert search is None
    html = report.render(config, summary, recorded, search)
    assert '<div id="search"' not in html
    assert "its search is not shown" in html


def test_removed_words_stand_where_the_step_was_dropped(recorded: dict[Key, Record]) -> None:
    shown = traces.show(recorded[Key("guarded", ROWS[2], "mine", "p", 0)], ("Wait",))
    assert [(piece.kind, piece.text.strip()) for piece in shown.pieces] == [
        ("own", "Begin."),
        ("note", "step 2 dropped (score -0.50); passed after 2 tries (score +0.50)"),
        ("removed", "Wait"),
        ("own", "Then <b>stop</b>."),
    ]


def test_a_rollback_and_what_was_done_in_the_answer_are_told(recorded: dict[Key, Record]) -> None:
    shown = recorded[Key("guarded", ROWS[2], "mine", "p", 0)]
    (note,) = shown.interventions
    back = note.replace(step=2, dropped_steps=1, outcome="rolled_back")
    answered = note.replace(where="answer", position=0, outcome="kept_last")
    told = traces.show(shown.replace(interventions=(note, back, answered)), ("Wait",))
    assert [piece.text for piece in told.pieces if piece.kind == "note"] == [
        "step 2 dropped (score -0.50); passed after 2 tries (score +0.50)",
        "step 3 dropped (score -0.50) with 1 more before it; passed after 2 tries (score +0.50)",
        "step 2 of the answer dropped (score -0.50); kept though failing after 2 tries (score +0.50)",
    ]
    assert [piece.kind for piece in told.pieces] == ["own", *["note", "removed"] * 2, "own", "note", "removed"]


def test_the_example_follows_a_rule(recorded: dict[Key, Record]) -> None:
    def prompt(name: str) -> Prompt:
        return Prompt(id=name, messages=(Message(role="user", content=name),), kind="jailbreak")

    calm = {
        Key("guarded", row, "mine", "calm", 0): record(row, "refusal", False).replace(prompt="calm") for row in ROWS
    }
    both = [Benchmark("mine", (prompt("calm"), prompt("p")))]
    chosen = traces.choose(ROWS, both, recorded | calm, dict.fromkeys(ROWS, ("Wait",)))
    assert chosen is not None
    assert chosen.prompt == "p"
    fallback = traces.choose(ROWS, both, calm, {})
    assert fallback is not None
    assert fallback.prompt == "calm"
    assert traces.choose(ROWS, both, {}, {}) is None


def test_the_headline_says_what_came_out(summary: Summary) -> None:
    said = report.headline(summary, ROWS[2], ROWS[0])
    assert "gave 25.0% (10.0% to 40.0%) of attack prompts a harmful answer; undefended, 25.0%" in said
    assert report.headline(summary, None, ROWS[0]).startswith("No row steers")


def test_numbers_in_print() -> None:
    assert table.number("lift", 0.5) == "+0.50"
    assert table.number("lift", -0.25) == "−0.25"
    assert table.number("accuracy", -0.0001) == "0.00"
    assert table.number("extra_tokens", 12.34) == "12.3"
    assert table.interval("accuracy", Estimate(0.2, 0.1, 0.3, 9, 9)) == "0.10–0.30"
    assert table.interval("accuracy", Estimate(0.2, 0.2, 0.2, 9, 9)) == ""


def test_the_printed_table_fits_80_columns_and_loses_no_digit(
    summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = table.printed(summary).splitlines()
    assert max(map(len, printed)) <= 80
    values = [table.number(name, cell.value) for name in table.DECISIVE if (cell := summary.rows["undefended"][name])]
    assert any(line.split() == ["undefended", *values] or set(values) <= set(line.split()) for line in printed)
    monkeypatch.setenv("COLUMNS", "40")
    assert table.printed(summary).splitlines() == printed


def test_the_wide_table_has_every_column_and_whole_names(summary: Summary) -> None:
    printed = table.printed(summary, wide=True)
    name = "a_name_of_a_row_that_is_longer_than_its_column"
    long = summary.replace(rows={name: summary.rows["undefended"]})
    lines = table.printed(long).splitlines()
    assert name in "".join(line.split()[0] for line in lines[2:9] if line.split())
    assert max(map(len, lines)) <= 80
    heads = {word for heading in table.HEADINGS.values() for word in heading.replace("-", "- ").split()}
    assert [word for word in heads if word not in printed] == []


def test_an_asr_stands_with_its_share_of_invalid(summary: Summary, html: str) -> None:
    assert table.DECISIVE.index("invalid_attacks") == table.DECISIVE.index("asr_answer") + 1
    assert "25.0% and 25.0% of the outputs were invalid, neither harmful nor safe" in html
    assert "25 / 25 / 25 / 25" in table.printed(summary)
    assert "| `undefended` | 25 / 25 / 25 / 25 |" in table.markdown_outcomes(summary)


@pytest.mark.parametrize("outcomes", [table.OUTCOMES[:-1], table.OUTCOMES], ids=["four", "with unjudged"])
def test_outcomes_of_many_benchmarks_fit_120_columns_and_a_page(
    config: EvalConfig, summary: Summary, outcomes: tuple[str, ...]
) -> None:
    full = Estimate(1.0, 0.9, 1.0, 40, 8)
    many = {f"jailbreakbench_behaviours_{n}": dict.fromkeys(outcomes, full) for n in range(12)}
    wide = summary.replace(outcomes=dict.fromkeys(ROWS, many))
    lines = table.printed(wide).splitlines()
    assert max(map(len, lines)) <= 120
    cell = " / ".join(["100"] * len(outcomes))
    assert sum(line.count(cell) for line in lines) == 12 * len(ROWS)
    assert ("helpful / invalid / unjudged" in "\n".join(lines)) == ("unjudged" in outcomes)
    assert ("helpful / invalid / unjudged, %" in table.markdown_outcomes(wide)) == ("unjudged" in outcomes)
    html = report.render(config, wide, {}, [])
    assert html.count('"barmode":"stack"') >= 2
    assert ('"name":"unjudged"' in html) == ("unjudged" in outcomes)


def test_a_difference_is_said_again_where_not_every_output_closes(summary: Summary) -> None:
    everywhere, closed = Estimate(0.1, 0.05, 0.2, 300, 40), Estimate(-0.2, -0.3, -0.1, 120, 40)
    pair = "learned_vs_wait_think_safely"
    compared = summary.replace(
        comparisons={pair: {"asr_answer": everywhere}}, comparisons_closed={pair: {"asr_answer": closed}}
    )
    said = " ".join(table.printed(compared).split())
    assert "differs by −0.20 from wait_think_safely on the 120 of 300 outputs whose thinking closes in both" in said
    all_close = compared.replace(comparisons_closed={pair: {"asr_answer": everywhere}})
    assert table.finding_closed(all_close) is None
    assert table.finding_closed(summary) is None


def test_rates_by_category_say_where_there_are_few(config: EvalConfig, summary: Summary) -> None:
    many, few = Estimate(0.5, 0.4, 0.6, 60, 60), Estimate(0.25, 0.0, 0.6, 4, 4)
    by_category = {
        name: {row: {"asr_answer": rate, "invalid": few} for row in ROWS} for name, rate in (("A", many), ("B", few))
    }
    html = report.render(config, summary.replace(categories={"mine": by_category}), {}, [])
    (section,) = re.findall(r"By category</h2>.*?</section>", html, re.DOTALL)
    assert re.search(r"<td>A</td><td>ASR answer</td><td>60</td>", section)
    assert re.search(r'<td>B</td><td>ASR answer</td><td>4 <span class="few">', section)
    assert "0.25 invalid" in section
    assert "By category" not in report.render(config, summary, {}, [])


def test_what_may_be_harmful_is_folded_until_asked_for(html: str) -> None:
    shown = re.sub(r'<details class="fold">.*?</details>', "", html, flags=re.DOTALL)
    assert html.count('<details class="fold">') == 3
    for text in ("&lt;script&gt;alert(1)&lt;/script&gt; &amp; more</p>",):
        assert text in html
        assert text not in shown
    assert html.count("No &amp; never.") == 3
    assert shown.count("No &amp; never.") == 1
    assert " open" not in "".join(re.findall(r'<details class="fold"[^>]*>', html))


def test_a_summary_of_before_still_loads_and_is_reported(config: EvalConfig, summary: Summary) -> None:
    written = json.loads(summary.model_dump_json(exclude={"comparisons_closed", "categories"}))
    for cells in written["rows"].values():
        del cells["invalid_attacks"]
    old = Summary.model_validate(written)
    assert "invalid" in table.printed(old, wide=True)
    assert "What became of every prompt" in report.render(config, old, {}, [])


def test_the_finding_is_the_paired_difference_with_its_interval_and_n(summary: Summary) -> None:
    said = table.finding(with_comparison(summary, Estimate(0.58, 0.48, 0.66, 482, 40)))
    assert said is not None
    assert "recovery differs by +0.58 from wait_think_safely" in said
    assert "95 % interval +0.48 to +0.66, n = 482" in said
    assert "may be none" not in said
    assert "may be none" in str(table.finding(with_comparison(summary, Estimate(0.1, -0.2, 0.4, 9, 9))))
    assert table.finding(summary.replace(comparisons={})) is None


@pytest.mark.parametrize("start", ["", "safethink_"])
def test_a_prefix_is_not_compared_with_itself(summary: Summary, start: str) -> None:
    rows = (f"{start}{other}" for other in table.AGAINST)
    same = with_comparison(summary, Estimate(0.0, -0.1, 0.1, 9, 9)).replace(
        texts=dict.fromkeys(rows, summary.prefix.texts)
    )
    assert table.finding(same) is None
    assert not any("Wait" in card.label for card in report.cards(same, "safethink_learned"))


def with_comparison(summary: Summary, difference: Estimate) -> Summary:
    cells = {"recovery_rate": difference, "asr_answer": None}
    return summary.replace(comparisons={"learned_vs_wait_think_safely": cells})


def test_all_numbers_fit_a_page_without_a_scrollbar(config: EvalConfig, summary: Summary) -> None:
    html = report.render(config, summary, {}, [])
    heads = [part.count("<th") - 1 for part in re.findall(r"<thead>(.*?)</thead>", html, re.DOTALL)]
    assert max(heads) <= 9
    assert all(f'">{heading}' in html for heading in table.HEADINGS.values())


def test_the_table_for_a_page(summary: Summary) -> None:
    lines = table.markdown(summary).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| `undefended` | 0.25 (0.10–0.40) |")


def test_texts_of_real_prompts_are_in_no_report_of_somebody_who_did_not_ask(
    config: EvalConfig, summary: Summary, recorded: dict[Key, Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.benchmarks, "load", lambda *_: pytest.fail("the prompts were read"))
    page = report.render(config, summary.replace(texts={}), recorded, [])
    assert "No &amp; never." not in page
    assert "Then &lt;b&gt;stop" not in page
    assert "--show-texts" in page


def test_the_testbed_s_made_up_hazards_are_shown(
    config: EvalConfig, summary: Summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.traces, "choose", lambda *_: traces.Comparison("Wake the idol.", ()))
    on_testbed = config.replace(benchmarks=[{"kind": "testbed", "prompts": "jailbreak", "n": 1}])
    assert "Wake the idol." in report.render(on_testbed, summary, {}, [])
    assert "Wake the idol." not in report.render(config, summary, {}, [])
