"""records.jsonl survives kills, full disks and half lines, and nothing else passes for a record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safethink.errors import RecordError
from safethink.evaluation.records import InterventionRecord, Record, RecordWriter, Span, placed, read
from safethink.files import write_text


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


def test_records_of_before_answers_were_watched_are_read(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    note = {"step": 1, "position": 4, "score_before": -0.5, "score_after": 0.5, "resamples": 1, "prefix": 0}
    old = record(sampled_tokens=9).model_dump(exclude_defaults=True) | {
        "interventions": [note | {"outcome": "recovered", "scores": [0.5]}]
    }
    path.write_text(json.dumps(old) + "\n")
    (read_again,) = read(path)
    (intervention,) = read_again.interventions
    assert (intervention.where, intervention.dropped_steps) == ("trace", 0)
    assert (read_again.monitor_calls, read_again.monitor_tokens, read_again.engine_seconds) == (None, None, None)


def noted(position: int, **fields: object) -> InterventionRecord:
    base = {"step": 0, "score_before": -1.0, "score_after": 1.0, "resamples": 1, "prefix": 0, "outcome": "recovered"}
    return InterventionRecord.model_validate(base | {"position": position} | fields)


def test_an_intervention_shows_where_the_trace_went_on_in_the_end() -> None:
    first, second, back, last = noted(3), noted(7), noted(4, dropped_steps=2), noted(9)
    answered = noted(0, where="answer")
    assert placed((first, second, back, last, answered)) == [(3, first), (4, second), (4, back), (9, last)]
    assert placed(()) == []


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
