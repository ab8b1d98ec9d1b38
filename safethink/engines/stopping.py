"""Stop conditions of steps, thinking and answers; matched on decoded text, so that fused delimiters count."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from safethink.defenses.effects import StopReason, Until
from safethink.thinking import turns
from safethink.thinking.delimiters import Tag
from safethink.thinking.format import Thought
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens

_SENTENCE_END: Final = re.compile(r"[.!?][\"')\]]*\s|[。！？]")
_BLANK_LINE: Final = "\n\n"
_BLANK_LINES: Final = re.compile(r"\n[^\S\n]*\n")
"""A blank line is a line of blanks, whatever blanks: `\r\n\r\n` has one too."""
LOOK_BACK: Final = 32
"""Tokens before a text in which a closing tag that ends in it may begin."""


class Stopper:
    """Decides, token by token, whether an extension ends.

    A delimiter fused into a token ends the step with that token. Blank text is no step: a delimiter counts only after
    something else. Where a blank line is a delimiter, so is a line of blanks. What closes the thinking with control
    tokens is recognised by their ids alone, so that the same characters spelled out stay text. Either tag ends an
    answer too: behind what opens it the reasoner thinks again, and before what closes it a second time it has thought
    on.
    """

    def __init__(self, thought: Thought, eos_ids: Collection[int]) -> None:
        """Take the tags from `thought`; `eos_ids` end a turn."""
        self._thought = thought
        self._delimiters = thought.family.step_delimiter
        self._sentences = thought.family.sentences
        self._counts_tokens = thought.family.step_tokens > 0
        self._closer, self._opener = thought.closer, thought.opener
        self._eos_ids = frozenset(eos_ids)
        tags = [tag for tag in (self._closer, self._opener) if tag.parts]
        in_text = [tag.text for tag in tags if tag.is_spelled or tag.last_id is None]
        self._last_characters = {text[-1] for text in (*self._delimiters, *in_text) if text}
        self._ending_ids = self._eos_ids | {tag.last_id for tag in tags if tag.is_control}
        self._may_end: dict[int, bool] = {}

    def reason(self, ids: Sequence[int], until: Until, before: Sequence[int] = ()) -> StopReason | None:
        """Stop reason of the last of `ids`; None where the extension goes on.

        Args:
            ids: the tokens since the text began that a delimiter may complete; at least one.
            until: what the extension asks for.
            before: tokens in front of them, where a closing tag of several tokens may have begun.
        """
        last = ids[-1]
        # Decoding is the slow part, and few tokens can end anything.
        if not self._may_end_something(last):
            return None
        if last in self._eos_ids:
            return "end"
        answering = until in (Until.ANSWER, Until.ANSWER_STEP)
        tags = (self._opener, self._closer) if answering else (self._closer,)
        if any(self._stands(tag, ids, before) for tag in tags):
            return "reopened" if answering else "thought"
        by_step = until in (Until.STEP, Until.ANSWER_STEP) and not self._counts_tokens
        return "step" if by_step and self._ends_a_step(ids) else None

    def step_starts(self, trace: Tokens, max_step_tokens: int, first: int = 0) -> tuple[int, ...]:
        """Find where each step of a finished trace begins; tokens injected before a step belong to it.

        A thought without words has no steps.

        Args:
            trace: the trace.
            max_step_tokens: where a step without a delimiter was cut, unless the thought counts fewer.
            first: number of tokens that stood there before the first step.
        """
        if not trace_text(self._thought, trace).strip():
            return ()
        max_step_tokens = self._thought.longest_step(max_step_tokens)
        starts, text_start = [first], first
        for end in range(first + 1, len(trace) + 1):
            if trace.forced[end - 1]:
                text_start = end
                continue
            reason = self.reason(trace.ids[text_start:end], Until.STEP, trace.ids[:text_start])
            if reason or end - text_start == max_step_tokens:
                # The question that follows a turn of the reasoner belongs to the step that ended it.
                starts.append(end + turns.turn_length(trace, end, self._thought.turns))
                text_start = end
        return tuple(start for start in starts if start < len(trace)) or (first,)

    def _stands(self, tag: Tag, ids: Sequence[int], before: Sequence[int]) -> bool:
        """Whether the last of `ids` completes a tag."""
        if tag.is_control and tag.last_id not in (None, ids[-1]):
            return False
        near = before[-LOOK_BACK:]
        return bool(tag.parts) and tag.ends((*near, *ids), len(near))

    def _ends_a_step(self, ids: Sequence[int]) -> bool:
        text = self._thought.decode(ids).lstrip()
        by_sentence = self._sentences and _SENTENCE_END.search(text) is not None
        by_blank_line = _BLANK_LINE in self._delimiters and _BLANK_LINES.search(text) is not None
        return by_sentence or by_blank_line or any(delimiter in text for delimiter in self._delimiters)

    def _may_end_something(self, token_id: int) -> bool:
        known = self._may_end.get(token_id)
        if known is None:
            piece = self._thought.decode([token_id])
            # A piece of a character decodes to U+FFFD, and some decoders swallow blanks at the edges.
            doubtful = self._sentences or "\ufffd" in piece or " " in self._last_characters
            known = doubtful or token_id in self._ending_ids or any(char in piece for char in self._last_characters)
            self._may_end[token_id] = known
        return known
