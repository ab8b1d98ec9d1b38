"""Grading of short final answers: whether an answer states one of the references, read by what kind of answer it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from safethink.judges.answers import latex, library, numbers, options, truth, words
from safethink.prompts import AnswerKind

_NUMBER: Final = re.compile(r"[-+.$€£\d][\d.,$ ]*(?:/ ?\d+)?%?")
_LABEL: Final = re.compile(r"\(?[A-Ja-j]\)|[A-J]|answer ?\d", re.IGNORECASE)


def is_right(
    answer: str, references: Sequence[str], kind: AnswerKind | None = None, choices: Sequence[str] = ()
) -> bool:
    r"""Whether an answer states one of the right answers as its final one.

    A final answer stands in `\boxed{}`, after `####`, or behind words such as "the answer is"; the last such place that
    can be read decides, boxes and marks before words. Elsewhere it is the last thing of its kind. An answer that names
    two options in one breath is wrong.

    Args:
        answer: the answer, without the trace.
        references: the right answers; any one is enough.
        kind: how both are read; None tells it of each reference by its own form.
        choices: texts of the options, in the order of their labels; only of a kind `option`.
    """
    return any(_states(answer, each, kind or kind_of(each), choices) for each in references)


def kind_of(reference: str) -> AnswerKind:
    """The kind of answer that a reference is, by its form."""
    said = reference.strip()
    if said.casefold() in ("true", "false"):
        return "true_false"
    if said.casefold() in ("yes", "no"):
        return "yes_no"
    if numbers.whole(said) is not None:
        return "number"
    if _LABEL.fullmatch(said):
        return "option"
    return "latex" if latex.is_marked(said) else "words"


def mathematics_by() -> str:
    """The comparison of answers in LaTeX in use: safethink's own, with math-verify and its version where installed."""
    found = library.installed()
    return "safethink alone" if found is None else f"safethink and math-verify {found}"


def _states(answer: str, reference: str, kind: AnswerKind, choices: Sequence[str]) -> bool:
    match kind:
        case "number":
            return numbers.states(answer, reference)
        case "latex":
            return latex.states(answer, reference)
        case "option":
            return options.states(answer, reference, choices)
        case "true_false" | "yes_no":
            return truth.states(answer, reference)
        case "words":
            return words.states(answer, reference)
