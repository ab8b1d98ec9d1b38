"""Numbers in text: signs, thousands, currencies, units, percents, fractions, powers of ten."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from safethink.judges.answers.places import stated

LONGEST: Final = 300
"""Digits beyond which a number is none: a model that repeats itself."""
ROUNDED: Final = 6
"""Decimals from which on a number may stand for one that it was rounded from: 0.333333 for 1/3."""

_THOUSANDS: Final = r"(?:,|\{,\}|,?\\[!,]\s?|[\u2009\u202f])"
_PLAIN: Final = rf"(?:\d{{1,3}}(?:{_THOUSANDS}\d{{3}})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER: Final = re.compile(
    rf"""(?<![A-Za-z\d_])(?<!\d[.,])
        (?P<sign>(?<![\w)\]}}])[-\u2212])?
        (?:\\?[$€£]\s?)?
        (?P<behind>(?<![\w)\]}}])[-\u2212])?
        (?:
            \\[dt]?frac\{{?(?P<top>\d+?)\}}?\s?\{{?(?P<bottom>\d+)\}}?
          | (?P<whole>\d+)\s(?P<upper>\d+)\s?/\s?(?P<lower>\d+)
          | (?P<plain>{_PLAIN})
            (?: \s?/\s?(?P<over>{_PLAIN})
              | [eE](?P<power>[-+]?\d+)
              | \s?(?:\\times|\\cdot|[\u00d7x*])\s?10\s?(?:\^|\*\*)\s?\{{?(?P<ten>[-+\u2212]?\d+)\}}?
            )?
        )
        (?:\s?(?P<percent>\\?%|percent\b)|\s(?P<scale>thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE,
)
_UNIT: Final = re.compile(r"\s+[A-Za-z\u00b5\u00b0/]+\.?")
_MARKS: Final = re.compile(r"<<.*?>>")
_SUM: Final = re.compile(r"[^=A-Za-z<>\n]*\d[^=A-Za-z<>\n]*=")
_SCALES: Final = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SPELLED: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written.

    Attributes:
        value: what it is worth, a percent by its figure.
        is_percent: whether it was written as a percent.
        decimals: digits behind the point.
    """

    value: Fraction
    is_percent: bool = False
    decimals: int = 0

    def same(self, other: Number) -> bool:
        """Whether both are the same number; a percent sign may stand on one side, as figure or as share."""
        if self._near(other.value, other.decimals):
            return True
        if self.is_percent == other.is_percent:
            return False
        percent, share = (self, other) if self.is_percent else (other, self)
        return percent.value == 100 * share.value

    def _near(self, value: Fraction, decimals: int) -> bool:
        digits = max(self.decimals, decimals)
        return self.value == value or (digits >= ROUNDED and abs(self.value - value) < Fraction(1, 10**digits))


def states(answer: str, reference: str) -> bool:
    """Whether an answer's final number is the reference.

    What is worked out in the announcement counts by its result: "the answer is 3 + 4 = 7".
    """
    right = whole(reference) or next(iter(found(reference)), None)
    if right is None:
        return False
    said = final(answer)
    return said is not None and said.same(right)


def final(answer: str) -> Number | None:
    """The number that is announced as the final one, else the last one."""
    text = _MARKS.sub("", answer)
    for said in stated(text):
        announced = _announced(said)
        if announced is not None:
            return announced
    return next(reversed([*found(text)]), None)


def whole(text: str) -> Number | None:
    """The number that a text is, with at most a unit behind it; None where it is anything else."""
    shown = text.strip(" \t\n$*.")
    match = _NUMBER.match(shown)
    if match is None or not (match.end() == len(shown) or _UNIT.fullmatch(shown, match.end())):
        return None
    return _number(match)


def found(text: str) -> Iterator[Number]:
    """The numbers of a text, in order."""
    return (number for match in _NUMBER.finditer(text) if (number := _number(match)) is not None)


def _announced(said: str) -> Number | None:
    worked_out = _SUM.match(said)
    while worked_out is not None:
        said = said[worked_out.end() :]
        worked_out = _SUM.match(said)
    number = next(found(said), None)
    first = re.match(r"[a-z]+", said.casefold())
    if first is not None and first[0] in _SPELLED:
        return Number(Fraction(_SPELLED.index(first[0])))
    return number


def _number(match: re.Match[str]) -> Number | None:
    part = match.groupdict()
    if len(match[0]) > LONGEST:
        return None
    try:
        if part["top"] is not None:
            value = Fraction(int(part["top"]), int(part["bottom"]))
        elif part["whole"] is not None:
            value = int(part["whole"]) + Fraction(int(part["upper"]), int(part["lower"]))
        else:
            power = int((part["power"] or part["ten"] or "0").replace("\u2212", "-"))
            if abs(power) > LONGEST:
                return None
            value = _plain(part["plain"]) * Fraction(10) ** power / _plain(part["over"] or "1")
    except ZeroDivisionError:
        return None
    value *= _SCALES.get(part["scale"] or "", 1)
    is_negative = bool(part["sign"] or part["behind"])
    decimals = len((part["plain"] or "").partition(".")[2])
    return Number(-value if is_negative else value, is_percent=part["percent"] is not None, decimals=decimals)


def _plain(written: str) -> Fraction:
    return Fraction(re.sub(_THOUSANDS, "", written))
