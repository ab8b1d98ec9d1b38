# pyright: standard
"""Allowed tokens of a prefix, and the round-trip filter of prefixes through text.

A prefix is published as text and injected as ids, so the two must be the same thing where it is injected: behind a
line break, as a loader encodes it, and behind whatever the contexts end with, because tokenizers merge across that.

What the contexts end with may itself be written in other tokens once words follow, as a blank line is with the
tokenizers of the GPT-2 kind. That is no matter: the runtime appends ids to ids and encodes nothing anew. A server that
takes text alone does, and says so when a run is built; see `safethink.engines.http`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from optimize.contexts import ContextSet
from safethink.engines.build import end_ids
from safethink.guarded import SafeThink
from safethink.thinking.chat import ChatEncoder

TAIL_TOKENS = 8
"""Number of tokens of a context put before a prefix when it is read again; merges do not reach further."""
SHOWN = 12
"""Characters of a tail that a message shows."""
RULE_CHARACTERS = 80
"""The most characters of one of a tokenizer's rules that a message shows."""
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
        self._encoder = ChatEncoder(tokenizer)
        self._lead_ids = list(self._encoder.text(self._encoder.lead_in))
        self._separator_ids = list(self._encoder.inside(separator))

    @classmethod
    def of(cls, guarded: SafeThink, contexts: ContextSet) -> Vocabulary:
        """Build the vocabulary of prefixes for a reasoner, to stand behind the contexts."""
        banned = guarded.thought.banned_texts
        allowed = allowed_ids(guarded.tokenizer, guarded.model, banned)
        endings = tails(guarded.tokenizer, [context.ids for context in contexts.unsafe + contexts.harmless])
        return cls(guarded.tokenizer, allowed, endings, banned, guarded.thought.family.prefix_separator)

    def unseparated(self) -> Vocabulary:
        """The same for prefixes that are encoded as one text with their separator, with which they may then merge."""
        return Vocabulary(self.tokenizer, self.allowed, self.tails, self._banned_texts)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prefix, where it is injected."""
        return self._encoder.said(ids)

    def ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a text where it is injected; a control string in it is spelled out."""
        return self._encoder.inside(text)

    def survive(self, candidates: Sequence[tuple[int, ...]]) -> list[bool]:
        """Mask of the candidates whose own ids come back from their text, on a new line and behind every tail."""
        if not candidates:
            return []
        texts = list(map(self.text, candidates))
        leading = self._encode([self._encoder.lead_in + text for text in texts])
        placed = self._encode([tail + text + self._separator for text in texts for tail in self.tails])
        survivors: list[bool] = []
        for index, (candidate, text) in enumerate(zip(candidates, texts, strict=True)):
            in_place = placed[index * len(self.tails) : (index + 1) * len(self.tails)]
            survivors.append(
                leading[index] == [*self._lead_ids, *candidate]
                and all(self._comes_back(candidate, ids) for ids in in_place)
                and not any(banned in text for banned in self._banned_texts)
            )
        return survivors

    def _comes_back(self, candidate: Sequence[int], read: Sequence[int]) -> bool:
        """Whether a text that was read again ends with a candidate and the separator, in tokens of their own."""
        own = [*candidate, *self._separator_ids]
        return list(read[-len(own) :]) == own

    def complaint(self, ids: Sequence[int]) -> str:
        """The reason why a prefix does not survive: where which other tokens come back; empty for one that does."""
        text = self.text(ids)
        if banned := next((banned for banned in self._banned_texts if banned in text), None):
            return f"it holds {banned!r}"
        if (read := self._encoder.inside(text)) != tuple(ids):
            return f"its text is read as {self._pieces(read)}, not as {self._pieces(ids)}{self._rule()}"
        for tail in self.tails:
            (read,) = self._encode([tail + text + self._separator])
            if not self._comes_back(ids, read):
                whole = f"{text + self._separator!r}"
                return (
                    f"behind {tail[-SHOWN:]!r}, {whole} is read as {self._pieces(read[-len(ids) - 2 :])}{self._rule()}"
                )
        return ""

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        return [str(token) for token in self.tokenizer.convert_ids_to_tokens(list(ids))]

    def _rule(self) -> str:
        """The tokenizer's rules that decide how a text is read, in the library's words, for a message."""
        rules = ", ".join(_rules(self.tokenizer))
        return f" (the tokenizer's rule: {rules})" if rules else ""

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts with `self.tokenizer`, without offsets, masks or padding."""
        if not texts:
            return []
        assert isinstance(self.tokenizer, PreTrainedTokenizerFast), "the encoder takes no other"
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
    said = ChatEncoder(tokenizer).said
    return [index for index in known if index < num_rows and _writable(said([index]), banned_texts)]


def tails(tokenizer: PreTrainedTokenizerBase, contexts: Iterable[Sequence[int]]) -> list[str]:
    """Endings of contexts, as text: the most frequent endings first, at most `MAX_TAILS`."""
    ends = Counter(tuple(ids[-TAIL_TOKENS:]) for ids in contexts)
    texts = Counter[str]()
    for ids, count in ends.items():
        texts[_text(tokenizer, ids)] += count
    return [text for text, _ in texts.most_common(MAX_TAILS)]


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _rules(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Normalizers and pre-tokenizers of a tokenizer, each with its settings."""
    assert isinstance(tokenizer, PreTrainedTokenizerFast), "the encoder takes no other"
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    stages = [state[name] for name in ("normalizer", "pre_tokenizer") if state[name]]
    parts = [part for stage in stages for part in stage.get("normalizers", stage.get("pretokenizers", [stage]))]
    shown = ("prepend", "prepend_scheme", "add_prefix_space", "use_regex", "replacement", "pattern", "content")
    return [
        " ".join([part["type"], *(f"{name}={part[name]}" for name in shown if name in part)])[:RULE_CHARACTERS]
        for part in parts
    ]


def _writable(text: str, banned_texts: Sequence[str]) -> bool:
    if not text or not text.isprintable() or "\N{REPLACEMENT CHARACTER}" in text:
        return False
    if any(banned in text for banned in banned_texts):
        return False
    return not (_BRACKETED.fullmatch(text.strip()) and _RESERVED.search(text))
