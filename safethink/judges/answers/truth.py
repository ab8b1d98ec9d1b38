"""True or false, yes or no."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from safethink.judges.answers.places import stated

_BOTH: Final = re.compile(r"\b(?:true|false|yes|no)\b\s*(?:/|\||\bor\b)\s*\b(?:true|false|yes|no)\b", re.IGNORECASE)
_SURE: Final = re.compile(r"(?P<not>(?:\bnot|n't)\s+(?:\w+ly\s+)?)?\b(?P<word>true|false)\b", re.IGNORECASE)
_OPENING: Final = re.compile(r"\W*(?P<word>yes|no)\b(?!\s+(?:one|more|longer|matter|doubt)\b)", re.IGNORECASE)
_MEANS: Final = {"true": True, "yes": True, "false": False, "no": False}


def states(answer: str, reference: str) -> bool:
    """Whether an answer's final word on the matter is the reference; yes stands for true, and no for false."""
    right = _MEANS.get(reference.strip().casefold())
    return right is not None and final(answer) is right


def final(answer: str) -> bool | None:
    """The truth value that is announced as the answer, else the one the text opens with, else the last in it."""
    text = _BOTH.sub(" ", answer)
    for said in stated(text):
        announced = next(_said(said), None)
        if announced is not None:
            return announced
    opening = _OPENING.match(text)
    if opening is not None:
        return _MEANS[opening["word"].casefold()]
    return next(reversed([*_said(text)]), None)


def _said(text: str) -> Iterator[bool]:
    opening = _OPENING.match(text)
    if opening is not None:
        yield _MEANS[opening["word"].casefold()]
    for found in _SURE.finditer(text):
        yield _MEANS[found["word"].casefold()] is not bool(found["not"])
    last = re.search(r"\b(yes|no)\W*$", text, re.IGNORECASE)
    if last is not None:
        yield _MEANS[last[1].casefold()]
