"""Progress goes to stderr: lines where there is no terminal, a bar where there is one."""

from __future__ import annotations

import sys

import pytest

from safethink import progress as module
from safethink.progress import progress, track


def test_items_pass_through_and_the_last_line_says_how_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([3, 1, 2], "counting")) == [3, 1, 2]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("counting: 3/3 (")


def test_plain_lines_come_at_intervals(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with track("working", 40) as advance:
        for _ in range(10):
            advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) < 10
    assert lines[-1].startswith("working: 40/40")


def test_the_last_line_comes_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLAIN_INTERVAL_S", 0.0)
    list(progress([1, 2], "counting"))
    assert [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()] == ["counting: 1/2", "counting: 2/2"]


def test_no_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([], "counting")) == []
    assert capsys.readouterr().err == ""


def test_an_unknown_total_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    list(progress(iter("ab"), "reading"))
    assert capsys.readouterr().err.startswith("reading: 2 (")


def test_a_failure_passes_through(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), track("failing") as advance:
        advance(1 // 0)
    assert "failing: 0" not in capsys.readouterr().err


def test_a_terminal_gets_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert list(progress(range(4), "painting")) == [0, 1, 2, 3]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "painting" in captured.err
    assert "━" in captured.err
