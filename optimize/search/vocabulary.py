# pyright: standard
"""Allowed tokens of a prefix, and the round-trip filter of prefixes through text.

A prefix is published as text and injected as ids, so the two must be the same thing: in isolation, and at the place
where it is injected, because tokenizers merge across whatever stands before it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from optimize.contexts import ContextSet
from safethink.engines.build import end_ids
from safethink.guarded import SafeThink
from safethink.thinking.chat import ChatEncoder

TAIL_TOKENS = 8
"""Number of tokens of a context put before a prefix when it is read again; merges do not reach further."""
MAX_TAILS = 16
"""The most endings of contexts that every candidate is tried after."""

_RESERVED = re.compile(r"unused|reserved|extra_id|placeholder|spare", re.IGNORECASE)
_BRACKETED = re.compile(r"[<\[].*[>\]]")


class Vocabulary:
    """The tokens a prefix may be made of, and the endings of contexts it must fit.

    Args:
        tokenizer: the reasoner's.
        allowed: ids that may enter a prefix.
        tails: how contexts end, as text.
        banned_texts: texts that no prefix may contain, such as thinking tags spelled with ordinary tokens.
        separator: what is injected right behind a prefix.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        allowed: Sequence[int],
        tails: Sequence[str] = (),
        banned_texts: Sequence[str] = (),
        separator: str = "",
    ) -> None:
        self.tokenizer = tokenizer
        self.allowed = tuple(allowed)
        self.tails = tuple(tails)
        self._banned_texts = tuple(banned_texts)
        self._separator = separator
        self._tail_ids = self._encode(self.tails)
        (self._separator_ids,) = self._encode([separator])

    @classmethod
    def of(cls, guarded: SafeThink, contexts: ContextSet) -> Vocabulary:
        """Build the vocabulary of prefixes for a reasoner, to stand behind the contexts."""
        banned = guarded.thought.banned_texts
        allowed = allowed_ids(guarded.tokenizer, guarded.model, banned)
        endings = tails(guarded.tokenizer, [context.ids for context in contexts.unsafe + contexts.harmless])
        return cls(guarded.tokenizer, allowed, endings, banned, guarded.thought.family.prefix_separator)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prefix."""
        return self._decode([ids])[0]

    def ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a text; a control string in it is spelled out."""
        return self._encoder.text(text)

    @cached_property
    def _encoder(self) -> ChatEncoder:
        return ChatEncoder(self.tokenizer)

    def survive(self, candidates: Sequence[tuple[int, ...]]) -> list[bool]:
        """Mask of the candidates whose ids survive a round trip through text, alone and after every tail."""
        if not candidates:
            return []
        texts = self._decode(candidates)
        alone = self._encode(texts)
        placed = self._encode([tail + text + self._separator for text in texts for tail in self.tails])
        survivors = []
        for index, (candidate, text) in enumerate(zip(candidates, texts, strict=True)):
            in_place = placed[index * len(self.tails) : (index + 1) * len(self.tails)]
            survivors.append(
                alone[index] == list(candidate)
                and all(
                    ids == [*tail, *candidate, *self._separator_ids]
                    for ids, tail in zip(in_place, self._tail_ids, strict=True)
                )
                and not any(banned in text for banned in self._banned_texts)
            )
        return survivors

    def _decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return [_text(self.tokenizer, ids) for ids in rows]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts with `self.tokenizer`, without offsets, masks or padding."""
        if not texts:
            return []
        if not isinstance(self.tokenizer, PreTrainedTokenizerFast):
            return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def allowed_ids(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, banned_texts: Sequence[str] = ()
) -> list[int]:
    """Ids that may enter a prefix, in order.

    Left out are
        - ids without an embedding row, and rows without a token: the reasoner cannot read the one, nor the tokenizer
          write the other;
        - special and added tokens, whatever they are called: they steer the template, close the thinking or end the
          turn;
        - ids that end generation, also where only the generation config says so;
        - reserved and unused rows: they were never trained, and what they do is an accident of initialisation;
        - tokens whose text is empty or not whole characters: on their own they cannot be written down;
        - tokens with line breaks or other unprintable characters: a break would end the step, and nobody who reads the
          card would see the others.

    Args:
        tokenizer: the reasoner's.
        model: the reasoner.
        banned_texts: texts that no token may contain, such as the thinking tags and the step delimiter.
    """
    num_rows = len(next(model.get_input_embeddings().parameters()))
    banned = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder) | end_ids(model, tokenizer)
    known = sorted(set(tokenizer.get_vocab().values()) - banned)
    return [index for index in known if index < num_rows and _writable(_text(tokenizer, [index]), banned_texts)]


def tails(tokenizer: PreTrainedTokenizerBase, contexts: Iterable[Sequence[int]]) -> list[str]:
    """Endings of contexts, as text: the most frequent endings first, at most `MAX_TAILS`."""
    ends = Counter(tuple(ids[-TAIL_TOKENS:]) for ids in contexts)
    texts = Counter[str]()
    for ids, count in ends.items():
        texts[_text(tokenizer, ids)] += count
    return [text for text, _ in texts.most_common(MAX_TAILS)]


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _writable(text: str, banned_texts: Sequence[str]) -> bool:
    if not text or not text.isprintable() or "\N{REPLACEMENT CHARACTER}" in text:
        return False
    if any(banned in text for banned in banned_texts):
        return False
    return not (_BRACKETED.fullmatch(text.strip()) and _RESERVED.search(text))
