"""Text files as rows: exact to the cell, and every fault named by line and row."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safethink.benchmarks.text_files import csv_rows, json_rows
from safethink.errors import ConfigError

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), bom=st.booleans(), crlf=st.booleans())
def test_cells_come_back_as_they_were_written(
    tmp_path: Path, rows: list[tuple[str, str]], bom: bool, crlf: bool
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n" if crlf else "\n", quoting=csv.QUOTE_ALL).writerows([("a", "b"), *rows])
    path = tmp_path / "t.csv"
    path.write_bytes(written.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    assert [tuple(values.values()) for _, values in csv_rows(path)] == rows


JSON = st.recursive(st.none() | st.booleans() | st.integers() | CELLS, lambda inner: st.lists(inner, max_size=3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.dictionaries(CELLS, JSON, min_size=1, max_size=3), min_size=2, max_size=4))
def test_objects_come_back_from_lines_and_from_a_list(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("list.json", "lines.jsonl"):
        assert [values for _, values in json_rows(tmp_path / name)] == rows


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('a,b\n"1\n2",3\n4\n', r"t\.csv:4 \(row 2\): 1 cells, but the header has 2"),
        ("a,b\n1,2,3\n", r"t\.csv:2 \(row 1\): 3 cells, but the header has 2"),
        ("a,a\n1,2\n", "the column 'a' stands twice"),
        ('a,b\n1,"2\n3,4\n', r"t\.csv:2 \(row 1\): no CSV"),
        ('a,b\n1,"2"x\n', r"t\.csv:2 \(row 1\): no CSV"),
        ("# words\na,b\n1,2\n", "begins with a comment"),
    ],
)
def test_a_fault_in_a_csv_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        list(csv_rows(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[{"a": 1}, {"b": {"c": 1, "c": 2}}]', "row 2: the key 'c' stands twice"),
        ('{"a": 1}\n{"a": 1, "a": 2}', r":2 \(row 2\): the key 'a' stands twice"),
        ('[{"a": 1}, 3]', "row 2: expected an object with keys, not 3"),
        ('{"a": 1}\n\n{"a": }', r":3 \(row 2\): invalid JSON"),
        ('{\n"1": {"a": 1},\n"1": {"a": 2}\n}', "the key '1' stands twice"),
    ],
)
def test_a_fault_in_a_json_file_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        list(json_rows(tmp_path / "t.json"))


def test_lines_before_the_header_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("# one\n# two\na\n1\n")
    ((place, values),) = csv_rows(tmp_path / "t.csv", comment="#")
    assert (place.line, place.row, values) == (4, 1, {"a": "1"})


@pytest.mark.parametrize("encoding", ["mac_roman", "cp1252", "utf-16"])
def test_an_old_encoding_is_named_and_then_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("a,b\n1,plain\n2,“it’s” — a café…\n".encode(encoding))
    with pytest.raises(ConfigError, match=f"add `encoding: {encoding}`"):
        list(csv_rows(path))
    assert [values["b"] for _, values in csv_rows(path, encoding)] == ["plain", "“it’s” — a café…"]


def test_the_line_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a\nfine\nit\xd5s\n")
    with pytest.raises(ConfigError, match=r"t\.csv:3: not UTF-8 text; it looks like mac_roman"):
        list(csv_rows(tmp_path / "t.csv"))


def test_a_gzip_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(b"a,b\n")
    with pytest.raises(ConfigError, match=r"t\.csv\.gz: damaged or no gzip file"):
        list(csv_rows(tmp_path / "t.csv.gz"))
