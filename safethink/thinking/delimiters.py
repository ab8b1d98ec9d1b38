"""Delimiters as a tokenizer reads them: control tokens by their ids, what stands between them as text.

A delimiter that begins with a control token is known by its ids, so that the same characters spelled out stay text;
words in it, such as a channel's name, are read behind that token. Any other is spelled in ordinary tokens, which a
sampler may cut in many ways, and is found in the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from safethink.thinking.chat import ChatEncoder

Decode = Callable[[Sequence[int]], str]
"""Token ids to text, control tokens spelled out."""


@dataclass(frozen=True, slots=True)
class Tag:
    """One delimiter.

    Attributes:
        text: how it is written; empty for one that never occurs.
        parts: what it is made of: ids of control tokens, and text.
        decode: reads the tokenizer's ids.
        header_fields: regular expression of what may follow the words of a message's header, such as a recipient.
    """

    text: str
    parts: tuple[int | str, ...]
    decode: Decode
    header_fields: str = ""

    @classmethod
    def of(cls, text: str, encoder: ChatEncoder, decode: Decode, header_fields: str = "") -> Tag:
        """The delimiter that is written `text`, as `encoder`'s tokenizer reads it."""
        return cls(text, tuple(encoder.parts(text)), decode, header_fields)

    @property
    def is_control(self) -> bool:
        """Whether it begins with a control token."""
        return bool(self.parts) and isinstance(self.parts[0], int)

    @property
    def last_id(self) -> int | None:
        """The control token that it ends with; None where it ends in text."""
        return last if self.parts and isinstance(last := self.parts[-1], int) else None

    @property
    def is_spelled(self) -> bool:
        """Whether it is found in the text."""
        return bool(self.parts) and not self.is_control

    def find(self, ids: Sequence[int]) -> range | None:
        """Position among `ids` of the first occurrence of this control delimiter; None for nowhere."""
        first, last = self.parts[0], self.last_id
        if first not in ids or (last is not None and last not in ids):
            return None
        places = (place for place, token in enumerate(ids) if token == first)
        return next((found for place in places if (found := self._at(ids, place)) is not None), None)

    def ends(self, ids: Sequence[int], start: int = 0) -> bool:
        """Whether the last of `ids` completes it.

        Args:
            ids: token ids; at least one.
            start: where those begin that it must not lie before; it may begin there.
        """
        if self.is_control:
            if self.last_id not in (None, ids[-1]):
                return False
            places = (place for place in reversed(range(len(ids))) if ids[place] == self.parts[0])
            found = self._at(ids, next(places, len(ids)))
            return found is not None and found.stop == len(ids)
        return bool(self.text) and self.decode(ids).count(self.text) > self.decode(ids[:start]).count(self.text)

    def _at(self, ids: Sequence[int], place: int) -> range | None:
        """Its position if it begins at `place`."""
        end = place
        for index, part in enumerate(self.parts):
            if isinstance(part, str) and index + 1 == len(self.parts):
                return self._behind(ids, place, end, part.strip())
            if isinstance(part, str):
                following, begin = self.parts[index + 1], end
                while end < len(ids) and ids[end] != following:
                    end += 1
                words = re.escape(part.strip()) + self.header_fields
                if not re.fullmatch(words, self.decode(ids[begin:end]).strip()):
                    return None
            elif end < len(ids) and ids[end] == part:
                end += 1
            else:
                return None
        return range(place, end)

    def _behind(self, ids: Sequence[int], place: int, begin: int, words: str) -> range | None:
        """Its position from `place` on, if the text from `begin` on is its last words."""
        for end in range(begin + 1, len(ids) + 1):
            text = self.decode(ids[begin:end]).lstrip()
            if text.startswith(words):
                # The word may go on in the next token.
                after = self.decode(ids[begin : end + 1]).lstrip()[len(words) :]
                return None if after[:1].isalnum() else range(place, end)
            if not words.startswith(text):
                return None
        return None
