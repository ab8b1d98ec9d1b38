"""Copies of records and sections are validated."""

from __future__ import annotations

import pytest
from pydantic import PrivateAttr, ValidationError

from safethink.frozen import Frozen


class Note(Frozen):
    """A record for these tests."""

    text: str
    count: int = 1
    tags: tuple[str, ...] = ()
    _seen: bool = PrivateAttr(default=False)


def test_a_copy_has_the_new_value_and_all_others() -> None:
    note = Note(text="a", tags=("x",))
    changed = note.replace(count="2")
    assert (changed.text, changed.count, changed.tags) == ("a", 2, ("x",)), "as read from a file"
    assert changed.tags is note.tags
    assert changed.model_fields_set == {"text", "tags", "count"}
    assert note.count == 1


def test_what_is_private_stays() -> None:
    note = Note(text="a")
    note._seen = True
    assert note.replace(text="b")._seen


@pytest.mark.parametrize("changes", [{"count": "many"}, {"txt": "b"}, {"text": None}])
def test_a_value_that_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Note(text="a").replace(**changes)
