"""Prompts: the chat messages a reasoner answers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, TypeAlias, cast

from pydantic import Field, model_validator

from safethink.errors import PromptError
from safethink.frozen import Frozen, Growing
from safethink.seeds import stable_seed

Role = Literal["system", "user", "assistant"]

PromptKind: TypeAlias = Literal["jailbreak", "harmful", "harmless", "borderline"]
"""A harmful request in disguise, a bare one, a harmless task, and a harmless request that sounds harmful."""

AnswerKind: TypeAlias = Literal["number", "latex", "option", "true_false", "yes_no", "words"]
"""Form of a final answer, by which it is read: a number, mathematics in LaTeX, the label or the text of an option, true
or false, yes or no, and plain words."""


class Message(Frozen):
    """One chat turn."""

    role: Role
    content: str


class Prompt(Growing):
    """A prompt: the messages for the reasoner, with the little that evaluation must know about them.

    A prompt's `id` is its identity in records and seeds: equal ids mean the same row in a rerun.
    """

    LATER_KEYS: ClassVar[frozenset[str]] = frozenset({"category", "references", "answer_kind", "choices"})

    id: str
    messages: tuple[Message, ...] = Field(min_length=1)
    kind: PromptKind | None = None
    """Kind of the request, where a benchmark knows it; None for a user's own prompt."""
    reference: str | None = None
    """The correct final answer of a harmless task, where there is one; of several the first."""
    clusters: dict[str, str] = Field(default_factory=dict)
    """Clusters that the bootstrap resamples over, by name: {"wrapper": ..., "hazard": ...}."""
    prefill: str = ""
    """Text that already stands in the thinking when the reasoner starts (a prefilling attack)."""
    category: str | None = None
    """Topic by which a benchmark's authors report; rates are given by it, the bootstrap never resamples it."""
    references: tuple[str, ...] = ()
    """All correct final answers, the first of them `reference`; any one of them is right."""
    answer_kind: AnswerKind | None = None
    """Form of the final answer, where a benchmark knows it; None to tell it by the reference's own form."""
    choices: tuple[str, ...] = ()
    """Texts of the options of a multiple-choice task, in the order of their labels."""

    @classmethod
    def from_text(cls, text: str, id: str = "prompt") -> Prompt:
        """A single user turn."""
        return cls(id=id, messages=(Message(role="user", content=text),))

    @property
    def words_hash(self) -> str:
        """Hash of all that the user says, however it is spelt: equal for two prompts that ask the same."""
        return words_hash("\n".join(message.content for message in self.messages if message.role == "user"))

    @property
    def text(self) -> str:
        """The last user turn."""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    def replace(self, **changes: Any) -> Prompt:
        """The same prompt with other values; `reference` and `references` change together.

        Raises:
            pydantic.ValidationError: an unknown key, or a value that does not fit.
        """
        return super().replace(**_answers(changes))

    @model_validator(mode="before")
    @classmethod
    def _with_all_answers(cls, given: object) -> object:
        return _answers(cast("dict[str, Any]", given)) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _same_first_answer(self) -> Prompt:
        if self.reference != next(iter(self.references), None):
            raise ValueError(f"reference {self.reference!r} is not the first of references {self.references!r}")
        return self

    def _is_default(self, key: str) -> bool:
        # One answer is written down as `reference` alone.
        return len(self.references) < 2 if key == "references" else super()._is_default(key)


def _answers(given: dict[str, Any]) -> dict[str, Any]:
    """Give `reference` and `references` where one of them is given."""
    if "references" in given and "reference" not in given:
        return given | {"reference": next(iter(given["references"]), None)}
    if "reference" in given and "references" not in given:
        return given | {"references": () if given["reference"] is None else (given["reference"],)}
    return given


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


def words_hash(text: str) -> str:
    """Hash of a text's words, however they are spelt: 16 hexadecimal digits."""
    return f"{stable_seed('text', normalised(text)):016x}"


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
