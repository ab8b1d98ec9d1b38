"""Prompts: the chat messages a reasoner answers."""

from __future__ import annotations

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
