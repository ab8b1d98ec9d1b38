"""Check of the turn that a guard's chat template asks about: the trace is judged, so it must be the assistant's."""

from __future__ import annotations

import re
from typing import Final

from safethink.errors import ConfigError
from safethink.monitors.guards.questions import Asker

USERS: Final = ("user", "human", "prompt", "query", "queries")
"""Words for the user's turn."""
ASSISTANTS: Final = ("assistant", "agent", "response", "chatbot")
"""Words for the assistant's turn, in a question about it or as its label."""
_OTHERS: Final = re.compile(
    r"\byou are an? (?:(?!(?:an?|the|of|for)\b)[\w-]+ ){0,4}?(?:assistant|agent|chatbot)\b"
    r"|\b(?:your|potential) (?:\w+ )?responses?\b",
    re.IGNORECASE,
)
"""Words for the guard itself, its reply, or responses that there may be: they name no turn of the conversation."""
_LABEL: Final = re.compile(r"(\w+)\W*$")


def refuse_swapped_roles(asker: Asker) -> None:
    """Check that a chat template that asks does so about the assistant's turn.

    Each turn stands behind a label, such as `User:`. A question that names the user's turn and no word for the
    assistant's is one about the user; so is a template that labels the trace as the user's. A template that names
    neither cannot be told, and passes.

    Raises:
        ConfigError: it asks about the user's turn.
    """
    words = asker.words_around()
    if words is None:
        return
    before, between, behind = words
    labels = [found[1].casefold() if (found := _LABEL.search(text)) else "" for text in (before, between)]
    if labels[0] in ASSISTANTS or labels[1] in USERS:
        raise ConfigError(
            f"guard {asker.name!r} has its roles swapped: its chat template calls the user's turn {labels[0]!r} and "
            f"the trace {labels[1]!r}"
        )
    question = f"{before[: len(before) - len(labels[0])] if labels[0] else before}\n{behind}"
    question = _OTHERS.sub("", question)
    if _names(question, USERS) and not _names(question, (*ASSISTANTS, labels[1])):
        raise ConfigError(
            f"guard {asker.name!r} is asked about the user's turn by its chat template, and not about the trace"
        )


def _names(text: str, words: tuple[str, ...]) -> bool:
    """Whether a text has one of the words, in any case, in the singular, in the plural or with an 's."""
    spelled = "|".join(re.escape(word) for word in words if word)
    return re.search(rf"\b(?:{spelled})(?:'?s)?\b", text, re.IGNORECASE) is not None
