"""The words of a reflection: the request, the list that is begun for the writer, and the phrases of what it wrote.

The request has the parts of OPRO's meta-prompt (arXiv 2309.03409, section 3.2): examples of the task, here ends of
failed traces, as ProTeGi (arXiv 2305.03495) and GEPA (arXiv 2507.19457) show what went wrong; and what was tried with
its score, the best last. The reply begins with the best phrases in that order, as a list that remains to be continued.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

BEGUN: Final = 3
"""The most phrases of the list that is begun."""
COPIED_WORDS: Final = 5
"""Words in a row that make a copy."""

_SHOWN: Final = "An assistant was asked for something harmful, and began to think about how to help:"
_TASK: Final = "A short sentence is put behind such a thought, to make the assistant stop and turn back."
_TRIED: Final = "Sentences that were tried, each with its cost; lower is better:"
_ASKED: Final = "Write a numbered list of new short sentences, each better than the one before."

_MARKER: Final = re.compile(r"(?:[-*+•–—]|\(?\d{1,3}[.):](?!\d))\s*")
_DECORATION: Final = str.maketrans("\N{RIGHT SINGLE QUOTATION MARK}", "'", "*_`#")
_AROUND: Final = " \"'“”„‘«»"
_FOREIGN: Final = frozenset('"“”„«»<>{}[]|\\\N{REPLACEMENT CHARACTER}')
_TALK: Final = re.compile(r"here(?:'s| is| are)\b|(?:sure|certainly|of course)[,.!]", re.IGNORECASE)


class Costed(NamedTuple):
    """A phrase and what it costs."""

    text: str
    cost: float


def request(traces: Sequence[str], tried: Sequence[Costed]) -> str:
    """The user's message to the writer.

    Args:
        traces: ends of failed traces.
        tried: phrases that were tried, the best last; empty before there are any.
    """
    parts = [_SHOWN, *(f"... {trace}" for trace in traces), _TASK]
    if tried:
        parts += [_TRIED, "\n".join(f"{each.text} (cost {each.cost:.2f})" for each in tried)]
    return "\n\n".join([*parts, _ASKED])


def opening(tried: Sequence[Costed]) -> str:
    """Beginning of the writer's reply: the last of what was tried as a list, up to the number of its next item."""
    begun = [each.text for each in tried[-BEGUN:]]
    lines = [f"{number}. {text}" for number, text in enumerate(begun, start=1)]
    return "\n".join([*lines, f"{len(begun) + 1}."])


def phrases(written: str, is_cut: bool) -> list[str]:
    """The phrases of a list that goes on behind `opening`, each once; none twice, nothing that is no phrase.

    The first line is the rest of an item; of the others only those that are items count, the rest is talk. Markers,
    quotation marks around an item and emphasis are taken off. What has no letter, quotes, brackets, announces something
    or begins as replies to a user do is no phrase.

    Args:
        written: the text.
        is_cut: whether a limit ended it; what stands behind its last line break is left out then.
    """
    lines = written.splitlines()
    if is_cut and lines and written.endswith(lines[-1]):
        lines.pop()
    items = [line for number, line in enumerate(lines) if not number or _MARKER.match(line.lstrip())]
    return [phrase for phrase in dict.fromkeys(map(_cleaned, items)) if _is_phrase(phrase)]


def is_copied(phrase: str, traces: Sequence[str]) -> bool:
    """Whether a phrase repeats the request, or a trace that it shows, which must not enter a log.

    Args:
        phrase: what was written.
        traces: ends of failed traces.
    """
    sources = (*traces, _SHOWN, _TASK, _TRIED, _ASKED)
    return not _runs(phrase).isdisjoint(run for source in sources for run in _runs(source))


def _runs(text: str) -> set[tuple[str, ...]]:
    """All runs of so many words; letter case and punctuation aside."""
    words = re.findall(r"\w+", text.casefold())
    return set(zip(*(words[start:] for start in range(COPIED_WORDS)), strict=False))


def _cleaned(item: str) -> str:
    """An item without what belongs to the list; taken off again and again, for one may hide another."""
    while True:
        plain = _MARKER.sub("", item.lstrip(), count=1) if _MARKER.match(item.lstrip()) else item
        plain = " ".join(plain.translate(_DECORATION).strip(_AROUND).split())
        if plain == item:
            return item
        item = plain


def _is_phrase(text: str) -> bool:
    if not text.isprintable() or not any(map(str.isalpha, text)) or text.endswith(":"):
        return False
    return not (_FOREIGN & set(text) or _TALK.match(text))
