"""Places of a text that state its final answer: boxes, hash marks, and words such as "the answer is"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_BOX: Final = re.compile(r"\\(?:boxed|fbox)\b\s*")
_HASHES: Final = re.compile(r"####")
_CUE: Final = re.compile(
    r"""\banswers?\b[*_"]*
        (?:(?!\banswers?\b)[^.!?\n:=]){0,60}?     # "to the question", "choice", "(to one decimal)"
        (?:\b(?:is|are|was|would\ be|must\ be|should\ be)\b|[:=])
        (?!\s*(?:not|neither)\b)
      |^[ \t*_]*A[*_]*:
      |\bthe\ (?:final|correct|right)\ (?:choice|option|one|result|value)\ (?:is|was|:)
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_SENTENCE_END: Final = re.compile(r"[.!?](?=[\s\"')*\]]|$)|\n")
_DRESS: Final = " \t\n*_:\"'`\u201c\u201d"


def stated(text: str) -> Iterator[str]:
    """Announcements of the final answer: in boxes and behind hash marks, then behind words, the last one first.

    A box gives what is between its braces, hash marks the rest of their line, words the rest of their sentence or,
    where nothing follows on their line, the next one.
    """
    marks = [
        (found.start(), found.end(), pattern) for pattern in (_BOX, _HASHES, _CUE) for found in pattern.finditer(text)
    ]
    for _, end, pattern in sorted(marks, key=lambda mark: (mark[2] is not _CUE, mark[0]), reverse=True):
        said = boxed(text, end) if pattern is _BOX else _line(text, end) if pattern is _HASHES else _sentence(text, end)
        if said:
            yield said


def boxed(text: str, start: int) -> str | None:
    """The content of the braces that open at `start`, or the one character there; None where they never close."""
    if not text.startswith("{", start):
        return text[start : start + 1] or None
    depth = 0
    for place in range(start, len(text)):
        if text[place - 1 : place] == "\\" and text[place - 2 : place] != "\\\\":
            continue
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[start + 1 : place].strip()
    return None


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text that hold anything."""
    return [part.strip(_DRESS) for part in _SENTENCE_END.split(text) if part.strip(_DRESS)]


def _line(text: str, start: int) -> str:
    return text[start:].lstrip(_DRESS).split("\n", 1)[0].strip(_DRESS)


def _sentence(text: str, start: int) -> str:
    rest = text[start:].lstrip(_DRESS)
    end = _SENTENCE_END.search(rest)
    return rest[: end.start() if end else None].strip(_DRESS)
