"""Prompts: the chat messages a reasoner answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from safethink.errors import PromptError
from safethink.frozen import Frozen

Role = Literal["system", "user", "assistant"]


class Message(Frozen):
    """One chat turn."""

    role: Role
    content: str


class Prompt(Frozen):
    """A prompt: the messages for the reasoner, with the little that evaluation must know about them.

    A prompt's `id` is its identity in records and seeds: equal ids mean the same row in a rerun.
    """

    id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    kind: Literal["jailbreak", "harmful", "harmless", "borderline"] | None = None
    """Category of the prompt, where a benchmark knows; None for a user's own prompt."""
    reference: str | None = None
    """The correct final answer of a harmless task, where there is one."""
    clusters: dict[str, str] = Field(default_factory=dict)
    """Clusters that the bootstrap resamples over, by name: {"wrapper": ..., "hazard": ...}."""
    prefill: str = ""
    """Text that already stands in the thinking when the reasoner starts (a prefilling attack)."""

    @classmethod
    def from_text(cls, text: str, id: str = "prompt") -> Prompt:
        """A single user turn."""
        return cls(id=id, messages=(Message(role="user", content=text),))

    @property
    def text(self) -> str:
        """The last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded; bytes that a shell could not read become lone surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_ARITHMETIC = re.compile(r"(?<=\d)[-*/.,:](?=\d)|(?<=\d )[-*/](?= \d)|(?<!\w)-(?=\d)")
"""Signs in and between numbers, which no sentence loses unchanged: 3-4, 3 / 4, -5, 1.5."""
_INSIDE_WORDS = re.compile("['\N{RIGHT SINGLE QUOTATION MARK}]")
_ACCENTS = "`\N{ACUTE ACCENT}"


def normalised(text: str) -> str:
    """The words of a text, the same however they are spelt: what duplicates and overlaps are told by.

    Compatibility forms (full width, ligatures), case, spaces, line breaks, punctuation, apostrophes and invisible
    characters make no difference. Symbols and the signs of arithmetic stay: "3 - 4" and "3 + 4" are two questions. A
    text of punctuation alone is its own words.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    visible = "".join(char for char in folded if unicodedata.category(char) != "Cf")
    spaced = " ".join(_INSIDE_WORDS.sub("", visible).split())
    signs = {match.start() for match in _ARITHMETIC.finditer(spaced)}
    words = "".join(_kept(char, place in signs) for place, char in enumerate(spaced)).split()
    return " ".join(words) or "".join(visible.split())


def _kept(char: str, is_sign: bool) -> str:
    """A character as a part of a word, as a word of its own, or as the end of one."""
    category = unicodedata.category(char)[0]
    if category in "LMN":
        return char
    return f" {char} " if is_sign or (category == "S" and char not in _ACCENTS) else " "


def refuse_duplicates(prompts: Iterable[Prompt]) -> None:
    """Check that no two prompts share an id.

    Raises:
        PromptError: two do; they would draw the same random numbers and could not be told apart.
    """
    seen: set[str] = set()
    for prompt in prompts:
        if prompt.id in seen:
            raise PromptError(f"the prompt id {prompt.id!r} stands twice: {prompt.text[:40]!r}")
        seen.add(prompt.id)
