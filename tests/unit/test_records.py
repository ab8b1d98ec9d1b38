"""records.jsonl survives kills, full disks and half lines, and nothing else passes for a record."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.errors import RecordError
from safethink.evaluation.records import InterventionRecord, Record, RecordWriter, Span, read, write_text


def record(sample: int = 0, **fields: object) -> Record:
    base = {"phase": "guarded", "row": "always", "benchmark": "harmless", "prompt": "p0", "outcome": "helpful"}
    return Record.model_validate(base | {"sample": sample} | fields)


def write(path: Path, *records: Record) -> None:
    with RecordWriter(path) as writer:
        for each in records:
            writer.append(each)


@given(text=st.text(), answer=st.text(), scores=st.lists(st.floats(-1, 1), max_size=3))
def test_a_record_survives_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, answer: str, scores: list[float]
) -> None:
    path = tmp_path_factory.mktemp("run") / "records.jsonl"
    dropped = InterventionRecord(
        step=1, position=4, score_before=-0.5, score_after=None, resamples=2, prefix=0, outcome="kept_last"
    )
    full = record(
        spans=(Span(start=0, text=text), Span(start=3, text="Wait", forced=True)),
        answer=answer,
        correct=True,
        trace_ids=(1, 2, 3),
        forced=(2,),
        interventions=(dropped,),
        step_scores=tuple(scores),
    )
    write(path, full, record(1))
    assert list(read(path)) == [full, record(1)]


def test_the_trace_leaves_injected_words_out() -> None:
    spans = (Span(start=0, text="First."), Span(start=2, text="Wait", forced=True), Span(start=3, text=" Then."))
    assert record(spans=spans).trace == "First. Then."


def test_nothing_written_yet_is_no_records(tmp_path: Path) -> None:
    assert list(read(tmp_path / "records.jsonl")) == []


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_truncated_last_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "records.jsonl"
    write(path, record(0), record(1))
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read(path)) == [record(0)]
    write(path, record(1))
    assert list(read(path)) == [record(0), record(1)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, record(0), record(1))
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(RecordError, match=r"records\.jsonl:1: not a record"):
        list(read(path))


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.symlink_to("/dev/full")
    with RecordWriter(path) as writer, pytest.raises(RecordError, match=r"records\.jsonl: No space left on device"):
        writer.append(record())


def test_a_line_cut_by_a_full_disk_leaves_the_others_readable(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write(path, record(0))
    with path.open("ab") as file:
        file.write(record(1).model_dump_json().encode()[:20])
    assert list(read(path)) == [record(0)]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(RecordError, match="missing"):
        write_text(tmp_path / "missing" / "summary.json", "new")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
