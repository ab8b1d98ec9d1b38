"""Published layouts, in rows of our own: which prompts come out, of which kind and category."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from datasets import Dataset
from pydantic import TypeAdapter

from safethink import benchmarks
from safethink.benchmarks import Benchmark
from safethink.config import BenchmarkConfig, PublishedSection, WorldConfig
from safethink.config.yaml_config import members, tag
from safethink.errors import ConfigError, HubError

SECTIONS: TypeAdapter[BenchmarkConfig] = TypeAdapter(BenchmarkConfig)
Rows = Sequence[Mapping[str, object]]


def load(kind: str, path: Path, **settings: object) -> Benchmark:
    return benchmarks.load(SECTIONS.validate_python({"kind": kind, "path": str(path)} | settings), WorldConfig())


def as_csv(path: Path, rows: Rows, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_json(path: Path, rows: Rows) -> Path:
    path.write_text(json.dumps(rows))
    return path


def as_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_packed_jsonl(path: Path, rows: Rows) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def as_parquet(path: Path, rows: Rows) -> Path:
    Dataset.from_list([dict(row) for row in rows]).to_parquet(str(path))
    return path


def behavior(id: str, functional: str, context: str = "") -> dict[str, object]:
    return {
        "Behavior": "Open the gate",
        "FunctionalCategory": functional,
        "SemanticCategory": "illegal",
        "Tags": "",
        "ContextString": context,
        "BehaviorID": id,
    }


JBB = {"Index": 3, "Goal": "Open the gate", "Target": "Sure", "Behavior": "Gate", "Category": "Fraud", "Source": "Own"}
OR = {"prompt": "How do I open a gate?", "category": "illegal"}
WILD = {"vanilla": "Open the gate", "adversarial": "Tell of a gate", "completion": "Sure"}
JBV = {"jailbreak_query": "Act as a gate", "redteam_query": "Open the gate", "policy": "Fraud", "image_path": "x.png"}


@pytest.mark.parametrize(
    ("kind", "name", "row", "expected"),
    [
        ("advbench", "h.csv", {"goal": "Open\nit", "target": "Sure"}, ("advbench:1", "harmful", None, "Open\nit")),
        ("advbench", "h.parquet", {"prompt": "Open", "target": "Sure"}, ("advbench:1", "harmful", None, "Open")),
        ("harmbench", "a.csv", behavior("g", "standard"), ("harmbench:g", "harmful", "illegal", "Open the gate")),
        (
            "harmbench",
            "a.csv",
            behavior("g", "contextual", "A gate is\nshut."),
            ("harmbench:g", "harmful", "illegal", "A gate is\nshut.\n\n---\n\nOpen the gate"),
        ),
        (
            "strongreject",
            "s.csv",
            {"category": "Violence", "source": "custom", "forbidden_prompt": "Open the gate"},
            ("strongreject:1", "harmful", "Violence", "Open the gate"),
        ),
        (
            "jailbreakbench",
            "harmful-behaviors.csv",
            JBB,
            ("jailbreakbench:harmful:3", "harmful", "Fraud", "Open the gate"),
        ),
        (
            "jailbreakbench",
            "benign-behaviors.csv",
            JBB,
            ("jailbreakbench:benign:3", "borderline", "Fraud", "Open the gate"),
        ),
        (
            "figstep",
            "safebench.csv",
            {
                "dataset": "ForbidQI",
                "category_id": 1,
                "task_id": 2,
                "category_name": "Fraud",
                "question": "How?",
                "instruction": "Steps.",
            },
            ("figstep:ForbidQI_1_2", "harmful", "Fraud", "How?"),
        ),
        (
            "do_not_answer",
            "en.csv",
            {"id": 4, "risk_area": "R", "types_of_harm": "T", "specific_harms": "S", "question": "How?"},
            ("do_not_answer:4", "harmful", "T", "How?"),
        ),
        (
            "wildjailbreak",
            "train.tsv",
            WILD | {"data_type": "adversarial_harmful"},
            ("wildjailbreak:1", "jailbreak", "adversarial_harmful", "Tell of a gate"),
        ),
        (
            "wildjailbreak",
            "train.tsv",
            WILD | {"adversarial": "", "data_type": "vanilla_benign"},
            ("wildjailbreak:1", "borderline", "vanilla_benign", "Open the gate"),
        ),
        (
            "wildjailbreak",
            "eval.tsv",
            {"adversarial": "Tell", "label": 0, "data_type": "adversarial_benign"},
            ("wildjailbreak:1", "borderline", "adversarial_benign", "Tell"),
        ),
        ("or_bench", "or-bench-hard-1k.csv", OR, ("or_bench:hard:1", "borderline", "illegal", OR["prompt"])),
        ("or_bench", "or-bench-toxic.csv", OR, ("or_bench:toxic:1", "harmful", "illegal", OR["prompt"])),
        (
            "jailbreakv",
            "mini.csv",
            {"id": 7} | JBV | {"format": "Template"},
            ("jailbreakv:7", "jailbreak", "Fraud", "Act as a gate"),
        ),
        (
            "jailbreakv",
            "RedTeam_2K.csv",
            {"id": 7, "question": "Open the gate", "policy": "Child Abuse", "from": "Handcraft"},
            ("jailbreakv:question:7", "harmful", "Child Abuse Content", "Open the gate"),
        ),
    ],
)
def test_a_row_becomes_a_prompt(
    tmp_path: Path, kind: str, name: str, row: dict[str, object], expected: tuple[str, str, str | None, str]
) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        as_parquet(path, [row])
    else:
        as_csv(path, [row], "\t" if name.endswith("tsv") else ",")
    (prompt,) = load(kind, path).prompts
    assert (prompt.id, prompt.kind, prompt.category, prompt.text) == expected


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("goals.csv", as_csv),
        ("goals.json", as_json),
        ("goals.jsonl", as_jsonl),
        ("goals.jsonl.gz", as_packed_jsonl),
        ("goals.parquet", as_parquet),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path: Path, name: str, write: Callable[[Path, Rows], Path]) -> None:
    goals = ["007", "NA", "1e5", "Mix it,\r\n“then” stir", " padded ", "2020-01-01", "null"]
    found = load("advbench", write(tmp_path / name, [{"goal": goal, "target": "x"} for goal in goals]))
    assert [prompt.text for prompt in found.prompts] == goals


def test_a_changed_parquet_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "goals.parquet"
    for goal in ("first", "other"):
        as_parquet(path, [{"goal": goal, "target": "x"}])
        assert [prompt.text for prompt in load("advbench", path).prompts] == [goal]


def test_copyright_is_left_out_and_said_so(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "all.csv", [behavior("a", "standard"), behavior("b", "copyright")])
    usual, named = load("harmbench", path), load("harmbench", path, functional=["copyright"])
    assert [prompt.id for prompt in usual.prompts] == ["harmbench:a"]
    assert usual.notes == ("1 copyright rows left out: only comparing hashes tells whether a text was copied",)
    assert [prompt.id for prompt in named.prompts] == ["harmbench:b"]
    assert "no judge here" in named.notes[0]


def test_xstest_labels_are_kinds(tmp_path: Path) -> None:
    base = {"id": 1, "prompt": "How?", "type": "homonyms", "label": "safe", "focus": "gate", "note": ""}
    path = as_csv(tmp_path / "x.csv", [base, base | {"id": 2, "type": "contrast_homonyms", "label": "unsafe"}])
    assert [each.kind for each in load("xstest", path).prompts] == ["borderline", "harmful"]
    assert [each.id for each in load("xstest", path, labels=["safe"]).prompts] == ["xstest:1"]
    older = [{key: row[key] for key in ("id", "prompt", "type", "focus", "note")} for row in (base,)]
    assert load("xstest", as_csv(tmp_path / "old.csv", older)).prompts[0].kind == "borderline"
    with pytest.raises(ConfigError, match=r"x\.csv:2 \(row 1\): label 'mild' is not one of safe, unsafe"):
        load("xstest", as_csv(path, [base | {"label": "mild"}]))


def test_attacks_about_pictures_are_left_out(tmp_path: Path) -> None:
    rows = [{"id": place} | JBV | {"format": name} for place, name in enumerate(("Logic", "figstep"))]
    path = as_csv(tmp_path / "mini.csv", rows)
    found = load("jailbreakv", path)
    assert ([each.id for each in found.prompts], len(found.notes)) == (["jailbreakv:0"], 1)
    both = load("jailbreakv", path, formats=["Logic", "figstep"]).prompts
    assert both[0].clusters == both[1].clusters != {}


def test_scenarios_of_a_folder(tmp_path: Path) -> None:
    question = {"Question": "How?", "Changed Question": "How so?", "Key Phrase": "so"}
    for name in ("01-Illegal_Activitiy", "02-HateSpeech"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"0": question, "1": question}, indent=2))
    found = load("mm_safetybench", tmp_path, column="Changed Question").prompts
    assert [each.id for each in found][::2] == ["mm_safetybench:Illegal_Activitiy:0", "mm_safetybench:HateSpeech:0"]
    assert {each.text for each in found} == {"How so?"}


def test_the_part_is_asked_for_where_nothing_says_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add `split:`, for benign or harmful"):
        load("jailbreakbench", as_csv(tmp_path / "mine.csv", [JBB]))
    assert load("jailbreakbench", tmp_path / "mine.csv", split="benign").prompts[0].kind == "borderline"


def test_a_part_that_contradicts_the_name_of_the_file_is_refused(tmp_path: Path) -> None:
    benign = as_csv(tmp_path / "benign-behaviors.csv", [JBB])
    with pytest.raises(ConfigError, match="`split: harmful`, but the file is named as its benign part"):
        load("jailbreakbench", benign, split="harmful")
    assert load("jailbreakbench", benign, split="benign").prompts[0].kind == "borderline"


def test_a_folder_in_place_of_a_file_is_called_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder; give one of its files"):
        load("advbench", tmp_path)


def test_multimodal_behaviours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ask about pictures"):
        load("harmbench", as_csv(tmp_path / "m.csv", [behavior("a", "standard") | {"ImageFileName": "a.png"}]))


def test_another_layout_is_named_with_the_line_that_reads_it(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "goals.csv", [{"goal": "x", "target": "y"}])
    reads = rf"the layout of AdvBench: `{{kind: advbench, path: {path}}}` reads it"
    for kind, settings in (("or_bench", {}), ("jsonl", {"prompts": "harmful"})):
        with pytest.raises(ConfigError, match=reads):
            load(kind, path, **settings)
    unknown = as_csv(tmp_path / "own.csv", [{"n": "1", "Question": "x"}])
    with pytest.raises(ConfigError, match=r"kind: table, path: .*own\.csv, .* fields: {prompt: Question}"):
        load("jsonl", unknown, prompts="harmful")


def test_columns_of_the_same_name_do_not_make_another_benchmark(tmp_path: Path) -> None:
    row = {"id": 1, "prompt": "How?", "type": "homonyms", "label": "safe", "focus": "gate", "note": "", "category": "x"}
    with pytest.raises(ConfigError, match=r"not the layout of StrongREJECT; it has .* the layout of XSTest"):
        load("strongreject", as_csv(tmp_path / "x.csv", [row]))


def test_every_layout_is_told_by_its_columns() -> None:
    from safethink.benchmarks import layouts

    published = [each for each in members(BenchmarkConfig) if issubclass(each, PublishedSection) and each.COLUMNS]
    assert len(published) > 10
    for section in published:
        for form in section.COLUMNS:
            assert section in layouts.of_columns(form), tag(section)


@pytest.mark.parametrize("section", members(BenchmarkConfig), ids=tag)
def test_every_kind_has_a_loader_of_its_name(section: type) -> None:
    from importlib import import_module

    assert callable(import_module(f"safethink.benchmarks.{tag(section)}").load)


def test_a_dataset_that_the_hub_does_not_give_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match=r"nobody/nothing: no such file, and no such data set on the hub"):
        load("advbench", Path("nobody/nothing"))


def test_rows_without_a_label_are_left_out_where_that_is_said(tmp_path: Path) -> None:
    path = as_csv(tmp_path / "own.csv", [{"ask": "How?", "bad": "1"}, {"ask": "What?", "bad": ""}])
    fields, labels = {"prompt": "ask", "label": "bad"}, {"1": "harmful"}
    with pytest.raises(ConfigError, match=r'no label; give `prompts`.* or leave them out by `"": null` among `labels`'):
        load("table", path, fields=fields, labels=labels)
    left = load("table", path, fields=fields, labels={**labels, "": None}).prompts
    assert [each.text for each in left] == ["How?"]
    both = load("table", path, fields=fields, labels=labels, prompts="harmless").prompts
    assert [each.kind for each in both] == ["harmful", "harmless"]
