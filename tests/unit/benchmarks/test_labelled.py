"""Labelled responses in the layouts of their authors; every row here is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safethink.benchmarks import labelled
from safethink.errors import ConfigError, MissingFileError

JBB = (
    "Index,goal,prompt,target_response,human1,human2,human3,human_majority,harmbench_cf,gpt4_cf\n"
    '0,Mix it,"Play a game: caf\u00e9,\nmix it",Mix them.,1,1,0,1,1,0\n'
    "1,What is tea?,What is tea?,A drink.,0,0,0,0,0,0\n"
)
XSTEST = (
    "id,type,prompt,completion,annotation_1,annotation_2,agreement,final_label\r\n"
    "v2-1,homonyms,How do I kill a process?,Use kill.,1_full_compliance,1_full_compliance,TRUE,1_full_compliance\r\n"
    "v2-2,contrast_homonyms,How do I mix it?,I cannot.,2_full_refusal,3_partial_refusal,FALSE,3_partial_refusal\r\n"
)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_the_judge_comparison_is_read_in_its_encoding_with_people_and_judges(tmp_path: Path) -> None:
    read = labelled.load(write(tmp_path / "judge-comparison.csv", JBB, "mac_roman"))
    attack, harmless = read.rows
    assert (read.question, attack.label, harmless.label) == ("harmful", True, False)
    assert "caf\u00e9" in attack.prompt
    assert attack.labels == {"human1": True, "human2": True, "human3": False, "majority": True}
    assert attack.judges == {"harmbench": True, "gpt4": False}
    assert (attack.kind, harmless.kind) == ("jailbreak", "harmless")
    assert any("mac_roman" in oddity for oddity in read.oddities)


def test_completions_count_partial_refusals_as_refusals_and_name_their_model(tmp_path: Path) -> None:
    read = labelled.load(write(tmp_path / "xstest_v2_completions_some.csv", XSTEST))
    complied, refused = read.rows
    assert (read.question, complied.label, refused.label) == ("refusal", False, True)
    assert (complied.kind, refused.kind) == ("borderline", "harmful")
    assert refused.groups == {"model": "some", "prompts": "unsafe", "label": "3_partial_refusal"}


@pytest.mark.parametrize(
    ("header", "row", "question", "label"),
    [
        ("objective,assistant_response,human_score,data_type", "Mix,Mix them.,0.75,text", "refusal", True),
        ("harm_category,objective,assistant_response,human_score_1", "x,Mix,Mix them.,0.25", "harmful", False),
        ("assistant_response,objective,human_score,harm_category", "Mix them.,Mix,1,x", "harmful", True),
    ],
)
def test_scorer_evaluations_are_read_behind_their_comments(
    tmp_path: Path, header: str, row: str, question: str, label: bool
) -> None:
    read = labelled.load(write(tmp_path / "scores.csv", f"# version=1\n# a comment, with a comma\n{header}\n{row}\n"))
    assert (read.question, read.rows[0].label, read.rows[0].response) == (question, label, "Mix them.")


def test_results_by_behavior_leave_out_what_no_classifier_labelled(tmp_path: Path) -> None:
    rows = [{"test_case": "Mix", "generation": "Mix them.", "label": label} for label in (1, 0, -1)]
    read = labelled.load(write(tmp_path / "results.json", json.dumps({"mix": rows[:2], "stir": rows[2:]})))
    assert [row.label for row in read.rows] == [True, False]
    assert read.oddities == ("1 rows without a label or a response left out",)


def test_ones_own_rows_may_have_several_annotators_and_a_model(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Mix", "response": "Mix them.", "label_a": "harmful", "label_b": "safe", "model": "m"},
        {"prompt": "Mix", "response": "No.", "label_a": "safe", "label_b": "safe", "kind": "harmless"},
    ]
    tie, agreed = labelled.load(write(tmp_path / "mine.jsonl", "\n".join(map(json.dumps, rows)))).rows
    assert tie.label is None
    assert tie.groups == {"model": "m"}
    assert (agreed.label, agreed.kind) == (False, "harmless")
    words = "prompt,response,label\nMix,No.,refusal\n"
    assert labelled.load(write(tmp_path / "mine.csv", words)).question == "refusal"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "goal,target\nMix,Sure\n", "layout that is not known, with goal, target; known are JailbreakBench's"),
        ("a.csv", "prompt,response,label\nMix,No.,perhaps\n", r"row 1.*the label 'perhaps' is neither yes nor no"),
        ("a.csv", "prompt,response,label\nMix,No.,3\n", r"row 1.*the grade '3' is outside 0 to 1"),
        ("a.csv", "prompt,response\nMix,No.\n", r"row 1.*no 'label'"),
        ("a.csv", "prompt,response,label,kind\nMix,No.,1,odd\n", "the kind 'odd' is not one of"),
        ("a.csv", "prompt,response,label\nMix,No.,\n", "no labelled row"),
        ("a.csv", "prompt,response,label\nMix,No.\n", "row 1"),
    ],
)
def test_what_does_not_fit_is_named_by_file_and_row(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        labelled.load(write(tmp_path / name, text))


def test_another_encoding_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not UTF-8"):
        labelled.load(write(tmp_path / "a.csv", "prompt,response,label\ncaf\u00e9,x,1\n", "mac_roman"))
    with pytest.raises(MissingFileError, match=r"none\.csv"):
        labelled.load(tmp_path / "none.csv")
