"""Answers in plain words: names, short phrases."""

from __future__ import annotations

import re
from typing import Final

from safethink.judges.answers.places import sentences, stated

_CLAUSE: Final = re.compile(r"[,;:()\n]|\s[-\u2013\u2014]\s|\b(?:because|since|as|which|who|where|so)\b", re.IGNORECASE)
_DENIED: Final = re.compile(r"(?:\bnot|\bnever|n't|\bno)\s*(?:an?|the)?$", re.IGNORECASE)
_ARTICLE: Final = re.compile(r"^(?:an?|the)\s+")


def states(answer: str, reference: str) -> bool:
    """Whether an answer is the reference, announces it, or ends with it; case, articles and punctuation aside."""
    right = plain(reference)
    if not right or plain(answer) == right:
        return answer.strip() == reference.strip() or bool(right)
    for said in stated(answer):
        if re.search(r"\w", said):
            return right in (plain(said), plain(_CLAUSE.split(said, maxsplit=1)[0]))
    last = (sentences(answer) or [""])[-1]
    ending = re.search(rf"(?:^|\W){re.escape(reference.strip())}\W*$", last, re.IGNORECASE)
    return ending is not None and not _DENIED.search(last[: ending.start()])


def plain(text: str) -> str:
    """A text in one case, without punctuation around it or an article before it."""
    shown = re.sub(r"\\text\w*\s*\{([^{}]*)\}", r"\1", text).replace("\u2019", "'")
    return _ARTICLE.sub("", re.sub(r"[^\w+\-%]+", " ", shown).strip().casefold())
