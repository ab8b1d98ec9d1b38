"""Where a step, the thinking and an answer end; found on decoded text, so that fused delimiters count."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from safethink.defenses.effects import StopReason, Until
from safethink.thought import Thought
from safethink.tokens import Tokens


class Stopper:
    """Decides, token by token, whether an extension ends.

    A delimiter fused into a token ends the step with that token. Blank text is no step: a delimiter counts only after
    something else. A closing tag that is a token of its own is recognised by its id alone, so that the same characters
    spelled out stay text. An opening tag in the answer ends an extension too: the reasoner thinks again behind it.
    """

    def __init__(self, thought: Thought, eos_ids: Collection[int]) -> None:
        """Take the tags from `thought`; `eos_ids` end a turn."""
        self._thought = thought
        self._delimiter = thought.config.step_delimiter
        self._close_id = thought.close_ids[0] if len(thought.close_ids) == 1 else None
        self._spelled_tag = thought.config.close_tag if self._close_id is None else None
        self._open_id = thought.open_ids[0] if len(thought.open_ids) == 1 else None
        self._spelled_opening = thought.config.open_tag if self._open_id is None else None
        self._counts_tokens = thought.config.step_tokens is not None
        self._eos_ids = frozenset(eos_ids)
        self._last_characters = {tag[-1] for tag in (self._delimiter, self._spelled_tag, self._spelled_opening) if tag}
        self._may_complete: dict[int, bool] = {}

    def reason(self, ids: Sequence[int], until: Until) -> StopReason | None:
        """Say why the last of `ids` ends the extension, or None.

        Args:
            ids: the tokens since the text began that a delimiter may complete; at least one.
            until: what the extension asks for.
        """
        last = ids[-1]
        if last in self._eos_ids:
            return "end"
        answering = until in (Until.ANSWER, Until.ANSWER_STEP)
        tag_id, tag = (self._open_id, self._spelled_opening) if answering else (self._close_id, self._spelled_tag)
        if last == tag_id:
            return "reopened" if answering else "thought"
        by_step = until in (Until.STEP, Until.ANSWER_STEP) and not self._counts_tokens
        # Decoding is the slow part, and few tokens can end anything.
        if not (by_step or tag) or not self._ends_a_tag(last):
            return None
        text = self._thought.decode(ids).lstrip()
        if tag is not None and tag in text:
            return "reopened" if answering else "thought"
        return "step" if by_step and self._delimiter in text else None

    def step_starts(self, trace: Tokens, max_step_tokens: int, first: int = 0) -> tuple[int, ...]:
        """Find where each step of a finished trace begins; tokens injected before a step belong to it.

        Args:
            trace: the trace.
            max_step_tokens: where a step without a delimiter was cut, unless the thought counts fewer.
            first: number of tokens that stood there before the first step.
        """
        max_step_tokens = self._thought.longest_step(max_step_tokens)
        starts, text_start = [first], first
        for end in range(first + 1, len(trace) + 1):
            if trace.forced[end - 1]:
                text_start = end
            elif self.reason(trace.ids[text_start:end], Until.STEP) or end - text_start == max_step_tokens:
                starts.append(end)
                text_start = end
        return tuple(start for start in starts if start < len(trace)) or (first,)

    def _ends_a_tag(self, token_id: int) -> bool:
        known = self._may_complete.get(token_id)
        if known is None:
            piece = self._thought.decode([token_id])
            # A piece of a character decodes to U+FFFD, and some decoders swallow blanks at the edges.
            doubtful = "\ufffd" in piece or " " in self._last_characters
            known = doubtful or any(character in piece for character in self._last_characters)
            self._may_complete[token_id] = known
        return known
