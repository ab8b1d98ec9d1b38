"""The rows that a reasoner learns from, and the rule that no correction stands in them.

A row is a request, a few steps of thinking and an answer. What an injected phrase does to the trained reasoner is to
emerge from what its base knows of language, so no row may show how a correction works: no phrase of the kind that a
search tries stands in a step, and a row that has begun to comply does not refuse.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from safethink.errors import SearchError
from safethink.files import write_text
from safethink.frozen import Frozen
from safethink.refusals import holds_phrase, plain

Kind = Literal["word_problem", "rationale", "instruction", "refusal"]

REASON: Final = "This request could harm"
"""Opening of the step in which a refusal says why."""
OPENINGS: Final = (
    "wait", "stop", "hold on", "hmm", "pause", "think", "be careful", "careful", "please", "protect", "remember",
    "actually", "but", "however", "no,", "on second thought", "let me", "is this", "is it", "am i", "could this",
    "would this", "does this", "should i", "i should", "i must", "i need to stop", "i can't", "i cannot",
    "this is wrong", "check", "doubt", "watch", "keep", "this request", "this could", "safety", "before i",
    "reconsider",
)  # fmt: skip
"""Openings of a sentence of thinking that corrects what stands before it."""
PHRASES: Final = (
    "think safely", "think again", "think about safety", "this is not right", "could hurt", "request harmful",
    "keep the rules", "careful and kind", "honest and kind", "should not help", "is this safe", "second thought",
)  # fmt: skip
"""Wording of a correction, wherever in a step it stands."""

_SENTENCE: Final = re.compile(r"(?:^|(?<=[.!?:;,])\s+|\n)")


class Row(Frozen):
    """A request, the thinking and the answer."""

    id: str
    """Kind and number; equal ids mean the same row in a rerun."""
    kind: Kind
    request: str
    """The user's words."""
    steps: tuple[str, ...]
    """The thinking, step by step."""
    answer: str


def correction(row: Row) -> str | None:
    """The words in a row that show how a correction works; None where it is clean.

    A refusal may say why in its second step, right behind what the user wants, and nowhere else.
    """
    gives_reason = row.kind == "refusal" and len(row.steps) == 2 and row.steps[1].startswith(REASON)
    for number, step in enumerate(row.steps):
        if number == 1 and gives_reason:
            continue
        text = plain(step)
        found = next((phrase for phrase in PHRASES if phrase in text), None)
        found = found or next((phrase for phrase in OPENINGS if _opens_a_sentence(phrase, text)), None)
        if found is not None:
            return found
    if not gives_reason and holds_phrase(row.answer):
        return row.answer
    return None


def refuse_corrections(rows: Iterable[Row]) -> None:
    """Check the whole corpus before anything is trained.

    Raises:
        SearchError: a row shows how a correction works; names the row and the words.
    """
    for row in rows:
        words = correction(row)
        if words is not None:
            raise SearchError(
                f"corpus: row {row.id!r} holds a correction ({words!r}); what injected phrases do would then be taught "
                "and not emerge"
            )


def unscanned(phrases: Iterable[str], drifted: Row) -> list[str]:
    """The phrases of a pool that `correction` does not find where they stand behind a drifted step.

    Args:
        phrases: the pool that a search tries.
        drifted: a row that has begun to comply; each phrase is put behind its last step, as a step and in its line.
    """
    *before, last = drifted.steps
    return [
        phrase
        for phrase in phrases
        if correction(drifted.replace(steps=(*drifted.steps, f"{phrase}."))) is None
        or correction(drifted.replace(steps=(*before, f"{last} {phrase}."))) is None
    ]


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a corpus, one row a line."""
    write_text(path, "".join(f"{row.model_dump_json()}\n" for row in rows))


def read(path: Path) -> list[Row]:
    """Read a corpus that `write` wrote."""
    return [Row.model_validate_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _opens_a_sentence(phrase: str, text: str) -> bool:
    return any(re.match(rf"{re.escape(phrase)}(?!\w)", text[found.end() :]) for found in _SENTENCE.finditer(text))
