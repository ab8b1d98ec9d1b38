"""Templates with holes: text with a place for each content, filled and encoded so that the places are known."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding

_EDGE = "\u2003"
"""Blank put around a placeholder: where the template trims a message, it goes."""
_PLACEHOLDER = re.compile(f"({_EDGE}?)SafeThinkMessage([0-9]+)Placeholder({_EDGE}?)")


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat as token ids.

    Attributes:
        ids: the whole chat, as the template renders it.
        spans: for each message, the positions in `ids` that hold its content. A token shared with the template counts.
            Empty for any but the last where the template decided from contents.
    """

    ids: tuple[int, ...]
    spans: tuple[range, ...]


def hole(index: int) -> str:
    """Placeholder in a template for the content of that index, see `ChatEncoder.fill`."""
    return f"{_EDGE}SafeThinkMessage{index}Placeholder{_EDGE}"


def holes_in(template: str) -> Iterator[re.Match[str]]:
    """The holes of a template, in order; the second group of each is the index of its content."""
    return _PLACEHOLDER.finditer(template)


def tail_of(holes: str) -> str:
    """The text behind the last message of a template with holes."""
    ends = [found.end() for found in holes_in(holes)]
    return holes[ends[-1] :] if ends else holes


def content_for(found: re.Match[str], contents: Sequence[str]) -> str:
    """The content for a hole, trimmed where the template trims it."""
    content = contents[int(found[2])]
    content = content if found[1] else content.lstrip()
    return content if found[3] else content.rstrip()


def with_contents(template: str, contents: Sequence[str]) -> str:
    """A template with `contents` in its holes, as text."""
    return _PLACEHOLDER.sub(lambda found: content_for(found, contents), template)


class Stretches:
    """Gathers text between control tokens and encodes each stretch as a whole, as the tokenizer itself would.

    Attributes:
        ids: what has been encoded.
        spans: for each content, its positions in `ids`; None for one that was not added.
    """

    def __init__(self, encode: Callable[[str, bool], Encoding], num_messages: int) -> None:
        """Gather nothing yet.

        Args:
            encode: encodes a stretch as text; told whether it is the first of all, with no control token before it.
            num_messages: how many contents there will be.
        """
        self.ids: list[int] = []
        self.spans: list[range | None] = [None] * num_messages
        self._encode = encode
        self._stretch = ""
        self._contents: list[tuple[int, int, int]] = []

    def add_text(self, text: str) -> None:
        """Add text of the template."""
        self._stretch += text

    def add_content(self, index: int, text: str) -> None:
        """Add the content of a message, whose place is noted."""
        self._contents.append((index, len(self._stretch), len(self._stretch) + len(text)))
        self._stretch += text

    def add_control(self, token_id: int) -> None:
        """Add a control token, which ends a stretch."""
        self.flush()
        self.ids.append(token_id)

    def flush(self) -> None:
        """Encode the stretch so far."""
        encoding = self._encode(self._stretch, not self.ids)
        offsets = encoding.offsets if self._contents else []
        for index, start, stop in self._contents:
            before = bisect_right(offsets, start, key=lambda token: token[1])
            until = bisect_left(offsets, stop, key=lambda token: token[0])
            self.spans[index] = range(len(self.ids) + before, len(self.ids) + max(before, until))
        self.ids += encoding.ids
        self._stretch, self._contents = "", []
