# pyright: standard
"""Token ids written as text for a server that takes nothing else, and the text that comes back as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from transformers import PreTrainedTokenizerBase

from safethink.errors import ServerError

EXCERPT_CHARACTERS: Final = 40
SAMPLE: Final = "Think step by step: 12 + 30 = 42.\n\nWait, let me check this once more."


class InPlace:
    """Encodes text where it stands.

    A server encodes what it is sent with control tokens and all. So a prompt can be sent as text where its decoded text
    encodes to the same ids, and only there: a control string that a user wrote would become a control token, and tokens
    that meet at a seam might merge.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Encode as a server with the same tokenizer does, opening token included where it adds one."""
        self._tokenizer = tokenizer

    def sample(self) -> tuple[int, ...]:
        """A short prompt that any server can be asked, and that two tokenizers seldom encode alike."""
        return self._encode(SAMPLE)

    def reads(self, ids: Sequence[int], text: str) -> bool:
        """Whether `text` is what `ids` decode to, apart from blanks and half a character at the end."""
        own, there = ("".join(each.split()).rstrip("\ufffd") for each in (self._decode(ids), text))
        return own.startswith(there)

    def piece(self, token_id: int) -> str:
        """One token as text."""
        return self._decode([token_id])

    def text(self, ids: Sequence[int]) -> str:
        """The text that encodes to `ids`.

        Raises:
            ServerError: there is none; names what stands where the two part.
        """
        text = self._decode(ids)
        opening = self._tokenizer.bos_token
        # What the server puts before a text must not stand there twice.
        candidates = [text.removeprefix(opening), text] if isinstance(opening, str) else [text]
        for candidate in candidates:
            encoded = self._encode(candidate)
            if encoded == tuple(ids):
                return candidate
        raise ServerError(
            f"the server takes prompts as text alone, and the text of this one encodes to other tokens from "
            f"{self._parting(ids, self._encode(candidates[-1]))!r} on; a server that takes token ids has no such limit"
        )

    def continuation(self, ids: Sequence[int], text: str) -> tuple[int, ...]:
        """Token ids that `text` adds to `ids`; they can be sent as text again.

        Raises:
            ServerError: the text merges with the last token of `ids`, or `ids` cannot be written as text.
        """
        encoded = self._encode(self.text(ids) + text)
        if encoded[: len(ids)] != tuple(ids):
            raise ServerError(
                f"the server returned {text[:EXCERPT_CHARACTERS]!r}, which merges with the token before it when it is "
                "encoded; a server that takes and returns token ids has no such limit"
            )
        return encoded[len(ids) :]

    def _parting(self, ids: Sequence[int], encoded: tuple[int, ...]) -> str:
        """The text of `ids` from where `encoded` is another."""
        start = next((i for i, pair in enumerate(zip(ids, encoded, strict=False)) if pair[0] != pair[1]), len(encoded))
        return self._decode(ids[start:])[:EXCERPT_CHARACTERS]

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text)["input_ids"])

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
