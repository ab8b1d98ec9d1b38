"""Agreement with people, the correction that follows, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from safethink.cli.main import PROGRAM
from safethink.evaluation import judge_check
from safethink.evaluation.agreement import agreement
from safethink.evaluation.correction import ErrorRates, corrected
from safethink.evaluation.statistics import Observations

ANSWERS = {True: "I cannot help with that.", False: "Take the two and mix them."}


def labels(path: Path, n: int = 12) -> Path:
    """Refusals and answers in turn, with one label in six that the phrases miss."""
    rows = [
        {"prompt": f"ask {i}", "response": ANSWERS[i % 2 == 0], "label": "1" if i % 2 or i % 6 == 0 else "0"}
        for i in range(n)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_agreement_is_that_of_the_table_of_four() -> None:
    said, truth = [True] * 6 + [False] * 4, [True] * 4 + [False] * 5 + [True]
    found = agreement(said, truth, [str(i) for i in range(10)])
    values = {name: getattr(found, name).value for name in ("accuracy", "kappa", "precision", "recall", "specificity")}
    chance = 0.6 * 0.5 + 0.4 * 0.5
    expected = {"accuracy": 0.7, "kappa": (0.7 - chance) / (1 - chance), "precision": 4 / 6, "recall": 0.8,
                "specificity": 0.6}  # fmt: skip
    assert values == pytest.approx(expected)
    assert (found.n, found.positives) == (10, 5)
    assert all(getattr(found, name).low < values[name] < getattr(found, name).high for name in values)


def test_what_is_not_defined_is_none() -> None:
    none = agreement([False, False], [False, False], ["a", "b"])
    assert (none.kappa, none.precision, none.recall) == (None, None, None)
    assert none.accuracy is not None
    assert none.accuracy.low < 1.0
    assert agreement([], [], []).accuracy is None


def observed(values: list[bool]) -> Observations:
    return Observations.of([float(each) for each in values], [str(i) for i in range(len(values))])


def test_the_correction_undoes_known_error_rates() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.3
    said = np.where(truth, rng.random(4000) < 0.9, rng.random(4000) < 0.2)
    rates = ErrorRates(harmful=1000, found=900, harmless=1000, cleared=800)
    found = corrected(observed(said.tolist()), observed([True] * 4000), rates)
    assert found is not None
    assert abs(found.value - 0.3) < 0.03
    assert found.low < 0.3 < found.high
    assert said.mean() > found.high
    few = corrected(
        observed(said.tolist()), observed([True] * 4000), ErrorRates(harmful=10, found=9, harmless=10, cleared=8)
    )
    assert few is not None
    assert few.high - few.low > 3 * (found.high - found.low)


def test_invalid_outputs_were_never_judged_and_are_not_corrected_into_harm() -> None:
    rates = ErrorRates(harmful=100, found=50, harmless=100, cleared=100)
    harmful, judged = observed([True] * 10 + [False] * 90), observed([True] * 40 + [False] * 60)
    found = corrected(harmful, judged, rates)
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert found.high <= 0.4 + 1e-9 or found.high < 0.55


def test_an_interval_never_vanishes_and_a_judge_no_better_than_chance_corrects_nothing() -> None:
    rates = ErrorRates(harmful=20, found=18, harmless=20, cleared=20)
    found = corrected(observed([False] * 30), observed([True] * 30), rates)
    assert found is not None
    assert found.value == found.low == 0.0
    assert found.high > 0.0
    chance = ErrorRates(harmful=10, found=5, harmless=10, cleared=5)
    assert corrected(observed([True] * 5), observed([True] * 5), chance) is None


def run(*words: str) -> int:
    return PROGRAM.main(["judge-check", *words])


def test_the_command_measures_a_judge_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ("refusal", "--labels", str(labels(tmp_path / "mine.jsonl")), "--out", str(out))
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert "refusal on 12 labelled responses from mine.jsonl: harmful or not" in said
    assert "sensitivity 0.750 (6 of 8), specificity 1.000 (4 of 4)" in said
    written = (out / judge_check.RESULT).read_text()
    verdicts = out / judge_check.VERDICTS
    whole = verdicts.read_bytes()
    verdicts.write_bytes(whole[:-10])
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(written)
    assert verdicts.read_bytes() == whole


def test_the_command_plans_without_judging(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("refusal", "--labels", str(labels(tmp_path / "mine.jsonl")), "--out", str(tmp_path / "run"))
    assert run(*words, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"question": "harmful", "responses": 12, "files": {"mine.jsonl": 12}}
    assert not (tmp_path / "run").exists()


def test_a_verdict_on_file_answers_neither_another_question_nor_for_other_phrases(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, out = tmp_path / "mine.csv", tmp_path / "run"

    def measured(yes: str, no: str) -> float:
        mine.write_text(f"prompt,response,label\nMix,{ANSWERS[True]},{no}\nStir,{ANSWERS[False]},{yes}\n")
        assert run("refusal", "--labels", str(mine), "--out", str(out), "--json") == 0
        return json.loads(capsys.readouterr().out)["annotators"]["label"]["accuracy"]["value"]

    assert measured("harmful", "harmless") == 1.0
    assert measured("complied", "refused") == 1.0
    # Killed before its result was written, and gone on with where other phrases hold: no verdict of before stands.
    (out / judge_check.RESULT).unlink()
    monkeypatch.setattr("safethink.refusals.OPENINGS_HASH", "of other phrases")
    monkeypatch.setattr("safethink.judges.refusal.refuses", lambda said: True)
    assert measured("complied", "refused") == 0.5


def test_the_command_refuses_what_it_cannot_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = str(labels(tmp_path / "mine.jsonl"))
    refusals = tmp_path / "refusals.csv"
    refusals.write_text("prompt,response,label\nMix,No.,refusal\n")
    both = tmp_path / "both.csv"
    both.write_text("prompt,response,label\nMix,No.,refusal\nStir,Take two.,harmful\n")
    cases = {
        ("refusal",): "--labels FILE",
        ("refusal", "--labels", str(both)): "both.csv: labels of harm (harmful) and of refusals (refusal)",
        ("refusal", "--labels", mine, str(refusals)): "check them one by one",
        ("refusal", "--labels", str(tmp_path / "none.csv")): "none.csv",
        ("refusal", "--labels", mine, "--judge.kind", "testbed"): "'testbed' knows the testbed's prompts alone",
        ("refusl", "--labels", mine): "did you mean 'refusal'",
    }
    for words, expected in cases.items():
        assert run(*words, "--out", str(tmp_path / "run")) == 2
        said = capsys.readouterr().err
        assert expected in said
        assert len(said.splitlines()) == 1
