"""Multiple choice: labels ("C", "(C)", "answer3", "option 3") and the texts of the options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from safethink.judges.answers.places import sentences, stated
from safethink.judges.answers.words import plain

_LISTED: Final = re.compile(r"\banswer\s?\d(?:\s*[/|]\s*answer\s?\d)+|\b[A-J](?:\s*[/|]\s*[A-J]\b)+", re.IGNORECASE)
"""The answer format repeated: "answer1/answer2/answer3", "A/B/C/D"."""
_LABEL: Final = re.compile(
    r"""\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice|ANSWER|OPTION|CHOICE)\s*[#(*]*\s*
            (?P<named>\d{1,2}|[B-HJb-hj]|[AI](?!\s[a-z])|[ai](?!\s\w))(?![\w'\u2019])
      | (?<!\w)[(\[]\s*[*]*(?P<enclosed>[A-Ja-j]|\d{1,2})[*]*\s*[)\]]
      | (?<!\w)[*]{2}(?P<bold>[A-J]|\d{1,2})[*]{2}
      | (?<![\w'\u2019\u00b0(])(?P<closed>[A-J])(?=[).:](?!\w))
      | ^\W*(?P<lower>[a-j]|\d{1,2})(?:[).:](?=\s|$)|\W*$)
      | (?<![\w'\u2019\u00b0])
        (?:(?P<bare>[B-HJ])|(?P<article>[AI])(?=\W*$|[,;*}]|\s(?:because|since|is|as|or|and)\b))(?![\w'\u2019])
    """,
    re.VERBOSE,
)
_OPENING: Final = re.compile(
    r"[^\w+\-]*(?:(?:answer|option|choice)\s*(?P<named>\d{1,2}|[A-J])\b|(?P<label>[A-J]|\d{1,2})(?:[).:](?=\s|$|\*)|\W*$))",
    re.IGNORECASE | re.MULTILINE,
)
_JOINED: Final = re.compile(r"\W*(?:or|and|/|&|,)\W*$")
_VERDICT: Final = re.compile(
    r"^(?P<said>.{1,80}?)\s+(?:is|would be|must be)\s+(?:the\s+)?(?:\w+\s+)?(?:correct|right|best)\b", re.IGNORECASE
)
_DENIED: Final = re.compile(r"\bnot\b|n['\u2019]t\b|\bincorrect\b|\bwrong\b|\bneither\b", re.IGNORECASE)


def states(answer: str, reference: str, choices: Sequence[str] = ()) -> bool:
    """Whether an answer settles on the option that the reference labels, or whose text the reference is."""
    right = index(reference)
    if right is None or (choices and right >= len(choices)):
        right = next((place for place, text in enumerate(choices) if plain(text) == plain(reference)), None)
    return right is not None and chosen(answer, choices) == right


def index(label: str) -> int | None:
    """Place of an option from its label: 2 for "C", "(c)", "3" and "answer3"."""
    found = re.fullmatch(r"\W*(?:answer|option|choice)?\s*\W?([A-Za-z]|[1-9]\d?)\W*", label, re.IGNORECASE)
    return None if found is None else _place(found[1])


def chosen(answer: str, choices: Sequence[str] = ()) -> int | None:
    """Place of the option that an answer settles on; None where it names none, or several in one breath.

    Args:
        answer: the answer.
        choices: texts of the options; without them labels alone are understood.
    """
    text = _LISTED.sub(" ", answer)
    for said in stated(text):
        named = _first(said, choices)
        if named:
            return _only(named)
    opened = _opens_with(text, choices)
    if opened is not None:
        return opened
    parts = [part for part in reversed(sentences(text)) if not _denies(part, choices)]
    verdicts = [_first(match["said"], choices) for part in parts if (match := _VERDICT.search(part)) is not None]
    named = [{each.place for each in _labels(part, choices)} for part in parts]
    quoted = [{each.place for each in _texts(part, choices)} for part in [*parts, text]]
    return _only(next(filter(None, [*verdicts, *named, *quoted]), set[int]()))


@dataclass(frozen=True, slots=True)
class _Mention:
    """An option in a text.

    Attributes:
        place: which option.
        start: where it is named.
        end: where its name ends.
    """

    place: int
    start: int
    end: int


def _first(said: str, choices: Sequence[str]) -> set[int]:
    """The option named first, and those joined to it: "B or C"."""
    exact = _exact(said, choices)
    if exact:
        return exact
    mentions = _labels(said, choices) or _texts(said, choices)
    joined = mentions[:1]
    for mention in mentions[1:]:
        if _JOINED.fullmatch(said[joined[-1].end : mention.start]) is None:
            break
        joined.append(mention)
    return {mention.place for mention in joined}


def _exact(said: str, choices: Sequence[str]) -> set[int]:
    """The options whose text this is, to the letter where one is."""
    for same in (str.strip, str.casefold, plain):
        exact = {place for place, text in enumerate(choices) if same(text) == same(said)}
        if exact:
            return exact
    return set()


def _opens_with(text: str, choices: Sequence[str]) -> int | None:
    """The option that a text opens with, unless its lines list several."""
    exact = _exact(text, choices) or _exact(next(iter(sentences(text)), ""), choices)
    if exact or _OPENING.match(text) is None:
        return _only(exact)
    openings = {_place(match["named"] or match["label"]) for match in map(_OPENING.match, text.splitlines()) if match}
    openings |= _first(text.strip().splitlines()[0], choices)
    return _only({place for place in openings if not choices or place < len(choices)})


def _denies(part: str, choices: Sequence[str]) -> bool:
    """Whether a sentence says that something is not so, the texts of options aside."""
    quoted = _texts(part, choices)
    return any(not _within(match, quoted) for match in _DENIED.finditer(part))


def _labels(said: str, choices: Sequence[str]) -> list[_Mention]:
    quoted = _texts(said, choices)
    found = [
        _Mention(_place(next(filter(None, match.groups()))), match.start(), match.end())
        for match in _LABEL.finditer(said)
        if not any(each.start <= match.start() and match.end() <= each.end for each in quoted)
    ]
    return [mention for mention in found if not choices or 0 <= mention.place < len(choices)]


def _texts(said: str, choices: Sequence[str]) -> list[_Mention]:
    """Texts of options in the order in which they stand; of one within another the longer."""
    taken: list[_Mention] = []
    for place, choice in sorted(enumerate(choices), key=lambda each: len(each[1]), reverse=True):
        bare = re.escape(choice.strip().rstrip("."))
        for match in re.finditer(rf"(?<![\w+\-\u2212.]){bare}(?!\w)", said, re.IGNORECASE) if bare else ():
            if not _within(match, taken):
                taken.append(_Mention(place, match.start(), match.end()))
    return sorted(taken, key=lambda mention: mention.start)


def _within(match: re.Match[str], mentions: Sequence[_Mention]) -> bool:
    return any(each.start < match.end() and match.start() < each.end for each in mentions)


def _only(places: set[int]) -> int | None:
    return next(iter(places)) if len(places) == 1 else None


def _place(label: str) -> int:
    return int(label) - 1 if label.isdigit() else ord(label.casefold()) - ord("a")
