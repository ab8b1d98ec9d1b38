"""Answers in mathematics: LaTeX as models write it, compared by form, part by part, and by value.

Where the library math-verify is installed (`pip install safethink[math]`), what is not equal here is put to it as well.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from typing import Final

from safethink.judges.answers import expressions, library, numbers
from safethink.judges.answers.places import sentences, stated
from safethink.judges.answers.words import plain

_MATH: Final = re.compile(r"\$\$(.+?)\$\$|\$((?:\\\$|[^$])+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AMOUNT: Final = re.compile(r"[-+]?\\?\$?\d[\d.,]*(?:\s[A-Za-z]{2,}.*)?")
"""A number with words behind it, not one within a formula."""
_REASON: Final = re.compile(r",?\s\b(?:because|since|as|so|where|when|which)\b")
_SPELLED: Final = "sqrt|pi|infty|theta|arcsin|arccos|arctan|sin|cos|tan|cot|sec|csc|log|ln|exp"
_REWRITTEN: Final = tuple(
    (re.compile(pattern), put)
    for pattern, put in (
        (r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|displaystyle|limits|mathstrut)(?![A-Za-z])\.?", ""),
        (r"\\[!,;:>]|\\(?:q?quad|ensuremath)(?![A-Za-z])|~|(?<!\\)\\ |[\u2009\u202f\u00a0]", " "),
        (r"\\(?:mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|operatorname)\s*(?=\{)", r"\\text"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree|\u00b0|\\?\bdegrees?\b", ""),
        (r"\\text\s*\{\s*(and|or)\s*\}|\s(?:and|or)\s", ","),
        (r"\\?[$%]|(?<!\\)\\[()\[\]]", ""),
        (r"\*\*", "^"),
        (r"\u221a\s*(\d+|\([^()]*\))", r"\\sqrt{\1}"),
        (r"\u03c0", r"\\pi "), (r"\u00d7", r"\\times "), (r"[\u00b7\u22c5]", r"\\cdot "), (r"\u00f7", "/"),
        (r"[\u2212\u2013]", "-"), (r"\u221e|\\infinity", r"\\infty "), (r"\u00b2", "^2"), (r"\u00b3", "^3"),
        (r"\u00b1", r"\\pm "), (r"\u222a", r"\\cup "), (r"\u2208", r"\\in "), (r"\u03b8", r"\\theta "),
        (r"\\leq?(?![A-Za-z])|\u2264|<=", r"\\le "), (r"\\geq?(?![A-Za-z])|\u2265|>=", r"\\ge "),
        (rf"(?<![\\A-Za-z])({_SPELLED})(?![A-Za-z])", r"\\\1 "),
        (r"\\begin\{[bBp]matrix\}|\\begin\{array\}\{[^{}]*\}", r"\\begin{matrix}"),
        (r"\\end\{[bBp]matrix\}|\\end\{array\}", r"\\end{matrix}"),
        (r"(?<=\d)\{,\}(?=\d{3})", ","),
    )
)  # fmt: skip
_THOUSANDS: Final = re.compile(r"(?<![\d.])(\d{1,3}(?:\s?,\s?\d{3})+)(?!\d)")
_UNIT: Final = re.compile(
    r"(?<=[\d}\w)])\s*(?:\\text\s*\{[^{}]*\}|\s(?!\\)[A-Za-z]{2,}(?:\s+[A-Za-z]{2,})*)\s*(?:\^\s*\{?\d\}?)?\s*$"
)
_BASE: Final = re.compile(r"([0-9A-Fa-f]+)_\s*(?:\{\s*(\d+)\s*\}|(\d+))")
_NAMED: Final = re.compile(r"[A-Za-z](?:_\w)?(?:\([A-Za-z]\))?\s*$")
_RELATION: Final = re.compile(r"(=|\\in(?![A-Za-z])|\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<|>)")
_OPEN: Final = ("(", "[", "\\{")
_CLOSE: Final = (")", "]", "\\}")


def is_marked(text: str) -> bool:
    """Whether a text is written in LaTeX or holds what only mathematics has."""
    return bool(re.search(r"\\[A-Za-z]|[\^$=]|^\(.*,.*\)$", text.strip()))


def states(answer: str, reference: str) -> bool:
    """Whether an answer's final expression is the reference."""
    for said in stated(answer):
        if re.search(r"\w", said):
            return _says(said, reference)
    shown = [next(filter(None, found.groups())) for found in _MATH.finditer(answer)]
    last = (sentences(answer) or [""])[-1]
    if any(same(said, reference) for said in (answer, last, *shown[-1:])):
        return True
    return not shown and numbers.whole(reference) is not None and numbers.states(answer, reference)


def same(said: str, reference: str) -> bool:
    """Whether two answers are the same mathematics."""
    one, other = _clean(said), _clean(reference)
    bare, right = _without_unit(one), _without_unit(other)
    return _same(one, other) or _same(bare, right) or library.same(bare, right)


def _says(said: str, reference: str) -> bool:
    """Whether the announcement of an answer holds the reference: as a whole, as its clause or as its formula."""
    formula = _MATH.search(said)
    clause = _REASON.split(said, maxsplit=1)[0]
    candidates = [said, clause] if formula is None else [said, clause, next(filter(None, formula.groups()))]
    if any(same(each, reference) for each in candidates):
        return True
    return (
        formula is None
        and numbers.whole(reference) is not None
        and _AMOUNT.fullmatch(said) is not None
        and (numbers.states(f"The answer is {said}", reference))
    )


def _clean(text: str) -> str:
    shown = text.strip().strip("*").rstrip(".,;: ")
    for pattern, put in _REWRITTEN:
        shown = pattern.sub(put, shown)
    if not shown.strip().startswith(("(", "[", "\\{")):
        shown = _THOUSANDS.sub(lambda found: re.sub(r"[\s,]", "", found[0]), shown)
    return re.sub(r"\s+", " ", shown).strip().rstrip(".,;: ")


def _without_unit(text: str) -> str:
    bare = _UNIT.sub("", text)
    return bare if re.search(r"\d|\\pi", bare) else text


def _same(one: str, other: str) -> bool:
    """Compare two cleaned answers: as written, then in their parts, then by value."""
    one, other = one.strip(), other.strip()
    if _squeezed(one) == _squeezed(other):
        return bool(_squeezed(one))
    for compare in (_same_relation, _same_union, _same_list, _same_bracketed, _same_matrix, _same_in_base, _same_text):
        verdict = compare(one, other)
        if verdict is not None:
            return verdict
    try:
        return expressions.same(one, other)
    except expressions.Unreadable:
        return False


def _same_relation(one: str, other: str) -> bool | None:
    first, second = _RELATION.split(one), _RELATION.split(other)
    if len(first) == len(second) == 1 or "matrix" in one or "," in _top(one) or "," in _top(other):
        return None
    if len(first) == 1 or len(second) == 1:
        return _same_without_name(first, second)
    if first[1::2] != second[1::2]:
        return False
    if all(_same(a, b) for a, b in zip(first[::2], second[::2], strict=True)):
        return True
    return first[1::2] == ["="] and _same_equation(first, second)


def _same_without_name(said: Sequence[str], reference: Sequence[str]) -> bool:
    r"""Compare "x = 5" or "2 + 3 = 5" with "5", and "x \in [1, 2]" with "[1, 2]"."""
    named = said if len(reference) == 1 else reference
    if not set(named[1::2]) <= {"=", "\\in"} or not (_NAMED.fullmatch(named[0].strip()) or _same(named[0], named[-1])):
        return False
    return _same(said[-1], reference[-1])


def _same_equation(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether two equations say the same: one side turned, or both multiplied."""
    if any(_NAMED.fullmatch(sides[0].strip()) for sides in (first, second)) and first[0].strip() != second[0].strip():
        return False
    try:
        return expressions.proportional(f"({first[0]})-({first[2]})", f"({second[0]})-({second[2]})")
    except expressions.Unreadable:
        return False


def _same_union(one: str, other: str) -> bool | None:
    parts, others = _split(one, "\\cup"), _split(other, "\\cup")
    return None if len(parts) == len(others) == 1 else _paired(parts, others)


def _same_list(one: str, other: str) -> bool | None:
    """Lists without brackets, and sets: in any order, each ± as two."""
    bare_one, bare_other = (_inside(text, "\\{", "\\}") or text for text in (one, other))
    parts, others = _unfolded(bare_one), _unfolded(bare_other)
    if len(parts) == len(others) == 1 and (bare_one, bare_other) == (one, other):
        return None
    return _paired(parts, others)


def _same_bracketed(one: str, other: str) -> bool | None:
    """Tuples and intervals: the same brackets, and entry by entry."""
    for opening, closing in product("([", ")]"):
        first, second = _inside(one, opening, closing), _inside(other, opening, closing)
        if first is None and second is None:
            continue
        parts, others = _split(first or one, ","), _split(second or other, ",")
        if len(parts) == len(others) == 1:
            return None if opening + closing == "()" else False
        return first is not None and second is not None and _in_order(parts, others)
    return None


def _same_matrix(one: str, other: str) -> bool | None:
    first, second = (_inside(text, "\\begin{matrix}", "\\end{matrix}") for text in (one, other))
    if first is None and second is None:
        return None
    if first is None or second is None:
        return False
    rows, others = ([row.split("&") for row in re.split(r"\\\\", text) if row.strip()] for text in (first, second))
    return len(rows) == len(others) and all(map(_in_order, rows, others))


def _same_in_base(one: str, other: str) -> bool | None:
    """Numbers with their base as an index, which may be left out where the reference has it."""
    said, reference = _BASE.fullmatch(one), _BASE.fullmatch(other)
    if reference is None:
        return None if said is None else False
    if said is None:
        return one == reference[1]
    return (said[1], said[2] or said[3]) == (reference[1], reference[2] or reference[3])


def _same_text(one: str, other: str) -> bool | None:
    """Words, where one of both is written as text."""
    if "\\text" not in one and "\\text" not in other:
        return True if plain(one) == plain(other) and re.fullmatch(r"[A-Za-z ]+", one) else None
    return plain(one) == plain(other) or None


def _in_order(parts: Sequence[str], others: Sequence[str]) -> bool:
    return len(parts) == len(others) and all(map(_same, parts, others))


def _paired(parts: Sequence[str], others: Sequence[str]) -> bool:
    left = list(others)
    for part in parts:
        twin = next((place for place, other in enumerate(left) if _same(part, other)), None)
        if twin is None:
            return False
        left.pop(twin)
    return not left


def _unfolded(text: str) -> list[str]:
    """The members of a list, each ± as two."""
    members = _split(text, ",")
    return [member.replace("\\pm", sign) for member in members for sign in (("+", "-") if "\\pm" in member else ("",))]


def _split(text: str, mark: str) -> list[str]:
    """The parts between marks that stand in no bracket."""
    parts, depth, start, place = list[str](), 0, 0, 0
    while place < len(text):
        token = text[place : place + 2] if text[place] == "\\" else text[place]
        if depth == 0 and text.startswith(mark, place):
            parts.append(text[start:place])
            place = start = place + len(mark)
            continue
        depth += (token in (*_OPEN, "{")) - (token in (*_CLOSE, "}"))
        place += len(token)
    return [part.strip() for part in [*parts, text[start:]] if part.strip()] or [""]


def _top(text: str) -> str:
    """The text outside of all brackets."""
    depth, kept = 0, ""
    for char in text:
        depth += char in "([{"
        kept += char if depth == 0 else ""
        depth -= char in ")]}"
    return kept


def _inside(text: str, opening: str, closing: str) -> str | None:
    """The text between an opening bracket at the start and its partner at the end."""
    if not (text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening) + len(closing)):
        return None
    inner = text[len(opening) : -len(closing)]
    depth = 0
    for token in re.findall(r"\\.|[^\\]", inner):
        depth += (token in (*_OPEN, "{")) - (token in (*_CLOSE, "}"))
        if depth < 0:
            return None
    return inner if depth == 0 else None


def _squeezed(text: str) -> str:
    shown = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\s", "", shown)
