"""Second opinion of the library math-verify on two answers in LaTeX, where it is installed (`safethink[math]`).

It knows more than values and parts: inequalities as intervals, simplification by sympy. It is asked about short
expressions alone, since sympy may take for ever over a tower of powers, and a time limit needs the main thread.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Final

LONGEST: Final = 200
"""Characters beyond which an answer is not handed over."""
_COSTLY: Final = re.compile(
    r"\^\s*\{[^{}]*\^|\^\s*\{?\s*-?\d{3}|!|\d{30}|\^\s*\{[^{}]*\{[^{}]*\^|\\(?:int|sum|prod|lim)\b"
)

_READ_OTHERWISE: Final = re.compile("[_=,]")
"""Numbers in a base, equations and lists, of which it takes a part for the whole: to it 52_7 is 52_8."""


def installed() -> str | None:
    """Version of math-verify; None where it is missing."""
    try:
        return version("math-verify")
    except PackageNotFoundError:
        return None


def same(said: str, reference: str) -> bool:
    """Whether math-verify finds two answers equal; never where it is missing, misreads or would take too long."""
    if installed() is None or any(
        len(text) > LONGEST or _COSTLY.search(text) or _READ_OTHERWISE.search(text) for text in (said, reference)
    ):
        return False
    library = import_module("math_verify")
    # It warns once that no time limit is set.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    right = library.parse(f"${reference}$", parsing_timeout=None)
    return bool(
        library.verify(
            right, library.parse(f"${said}$", parsing_timeout=None), timeout_seconds=None, allow_set_relation_comp=True
        )
    )
