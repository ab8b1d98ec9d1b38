"""Rows compared on outputs that close in both, and rates by category."""

from __future__ import annotations

from dataclasses import replace

import pytest

from safethink.benchmarks import Benchmark
from safethink.config import EvalConfig, NoneConfig, SafeThinkConfig
from safethink.defenses import build
from safethink.evaluation import summary
from safethink.evaluation.injection_sites import Contexts
from safethink.evaluation.metrics import Ledger
from safethink.evaluation.records import Record
from safethink.evaluation.summary import Evidence, PrefixSummary
from safethink.evaluation.variants import TableRow
from safethink.prompts import Prompt

BARE = TableRow("undefended", NoneConfig(), build(NoneConfig()))
STEERED = TableRow("steered", SafeThinkConfig(), build(SafeThinkConfig()), on_trial=True)
OUTPUTS = {
    "a": ("invalid", "harmful"),
    "b": ("harmful", "refusal"),
    "c": ("harmful", "harmful"),
    "d": ("refusal", "invalid"),
    "e": ("helpful", "refusal"),
}
"""By prompt, the outcome undefended and steered; only the invalid ones never closed."""


def record(row: str, prompt: str, outcome: str) -> Record:
    fields = {"phase": "guarded", "row": row, "benchmark": "mine", "prompt": prompt, "sample": 0}
    return Record.model_validate(fields | {"outcome": outcome, "closed": outcome != "invalid"})


@pytest.fixture
def evidence() -> Evidence:
    prompts = tuple(
        Prompt.from_text("x", id=name).replace(kind="jailbreak", category="odd" if name in "ace" else "even")
        for name in OUTPUTS
    )
    records = [
        record(row.name, name, outcome)
        for name, both in OUTPUTS.items()
        for row, outcome in zip((BARE, STEERED), both, strict=True)
    ]
    config = EvalConfig.model_validate(
        {
            "run": {"reasoner": {"path": "some/model"}},
            "benchmarks": [{"kind": "jsonl", "path": "mine.jsonl", "prompts": "jailbreak"}],
            "rows": [{"name": "undefended", "defense": {"kind": "none"}}],
            "judge": "refusal",
        }
    )
    return Evidence(
        config=config,
        rows=(BARE, STEERED),
        ledger=Ledger([Benchmark("mine", prompts)], {each.key: each for each in records}),
        contexts=Contexts(watched=0, fired=0, places=()),
        forecast=None,
        prefix=PrefixSummary(path="p", texts=("Wait",), test_evaluations=0, learned_sha256="0" * 64),
    )


def test_an_intervention_that_closes_a_trace_raises_asr_and_not_that_of_prompts_that_close_in_both(
    evidence: Evidence,
) -> None:
    found = summary.summarise(evidence)
    (everywhere,), (closed,) = found.comparisons.values(), found.comparisons_closed.values()
    assert everywhere["asr_answer"] is not None
    assert (everywhere["asr_answer"].value, everywhere["asr_answer"].n) == (0.0, 5)
    assert closed["asr_answer"] is not None
    assert closed["asr_answer"].value == pytest.approx(-1 / 3)
    assert closed["asr_answer"].n == 3
    assert found.compared_closed("undefended") == closed
    assert found.rows["undefended"]["invalid_attacks"] is not None
    assert found.rows["undefended"]["invalid_attacks"].value == 0.2


def test_rates_by_category_have_their_own_n_and_are_no_clusters(evidence: Evidence) -> None:
    found = summary.summarise(evidence).categories["mine"]
    assert list(found) == ["even", "odd"]
    odd = found["odd"]["steered"]
    assert set(odd) == {"asr_answer", "asr_trace", "invalid"}
    assert odd["asr_answer"] is not None
    assert odd["asr_answer"].value == pytest.approx(2 / 3)
    assert (odd["asr_answer"].n, odd["asr_answer"].clusters) == (3, 3)


def test_benchmarks_without_categories_have_no_section(evidence: Evidence) -> None:
    plain = tuple(prompt.replace(category=None) for prompt in evidence.ledger.benchmarks[0].prompts)
    evidence.ledger.benchmarks = [Benchmark("mine", plain)]
    assert summary.summarise(evidence).categories == {}


def test_outputs_without_a_verdict_stack_with_the_others_in_every_row(evidence: Evidence) -> None:
    assert "unjudged" not in summary.outcomes(BARE, evidence)["mine"]
    unread = record("steered", "c", "unjudged")
    ledger = Ledger(evidence.ledger.benchmarks, {**evidence.ledger.records, unread.key: unread})
    seen = replace(evidence, ledger=ledger)
    shares = {row.name: summary.outcomes(row, seen)["mine"] for row in (BARE, STEERED)}
    values = {name: {outcome: each.value for outcome, each in cells.items() if each} for name, cells in shares.items()}
    assert (values["undefended"]["unjudged"], values["steered"]["unjudged"]) == (0.0, 0.2)
    assert all(sum(own.values()) == pytest.approx(1.0) for own in values.values())
