"""Files and folders are written whole, or the old ones stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from safethink.errors import RecordError
from safethink.files import atomic_write, write_text


def folder(path: Path, text: str) -> None:
    path.mkdir()
    (path / "file").write_text(text)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder(tmp_path / "folder", "old")
    return tmp_path / "folder"


def test_a_folder_is_replaced_whole(old: Path) -> None:
    with atomic_write(old) as partial:
        folder(partial, "new")
    assert (old / "file").read_text() == "new"
    assert list(old.parent.iterdir()) == [old], "nothing is left beside it"


def test_an_error_while_it_is_written_leaves_the_old_one(old: Path) -> None:
    def write_half() -> None:
        with atomic_write(old) as partial:
            folder(partial, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (old / "file").read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_an_error_while_it_is_put_in_place_leaves_the_old_one(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = os.replace, list[object]()

    def fail_once(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(RecordError, match="Input/output error"), atomic_write(old) as partial:
        folder(partial, "new")
    assert (old / "file").read_text() == "old"
    assert list(old.parent.iterdir()) == [old]


def test_what_a_killed_write_left_behind_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.with_name("file.partial").write_text("half")
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
