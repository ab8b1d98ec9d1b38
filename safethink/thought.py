"""Where thinking opens and closes: prompts opened as token ids, traces and answers read back as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from safethink.config import ThoughtConfig
from safethink.errors import PromptError
from safethink.prompts import Prompt
from safethink.templating import ChatEncoder
from safethink.tokens import Tokens, is_soft, placeholder

REFUSAL = "I cannot help with that."
"""What a defense answers when it refuses in the reasoner's place."""


@dataclass(frozen=True)
class Thought:
    """How one reasoner's thinking is written down.

    Attributes:
        config: the tags and the step delimiter.
        tokenizer: the reasoner's.
        context_tokens: size of the reasoner's context window; None where it has no limit.
        reserve_tokens: tokens of the window that a prompt must leave free, so that a step can follow.
    """

    config: ThoughtConfig
    tokenizer: PreTrainedTokenizerBase
    context_tokens: int | None = None
    reserve_tokens: int = 1

    @cached_property
    def encoder(self) -> ChatEncoder:
        """Encodes text so that it cannot contain a control token."""
        return ChatEncoder(self.tokenizer)

    @cached_property
    def close_ids(self) -> tuple[int, ...]:
        """What closes the thinking: one id where the closing tag is a token of its own."""
        return self._tag(self.config.close_tag)

    @cached_property
    def open_ids(self) -> tuple[int, ...]:
        """What opens the thinking."""
        return self._tag(self.config.open_tag)

    @cached_property
    def separator_ids(self) -> tuple[int, ...]:
        """What is injected right behind a prefix."""
        return self.encoder.text(self.config.prefix_separator)

    @cached_property
    def refusal_ids(self) -> tuple[int, ...]:
        """The refusal that a defense writes itself, to follow `close_ids`, end of turn included."""
        end_id = self.tokenizer.eos_token_id
        return self.encoder.text(f"\n\n{REFUSAL}") + ((end_id,) if isinstance(end_id, int) else ())

    def open_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        """Render the chat template, once, up to the open thinking.

        The messages are encoded as text: a control string in them stays text. Where the template leaves it to the
        model to open the thinking, the opening tag is appended. `prompt.prefill` is not part of it: see `prefill`.

        Raises:
            PromptError: if the prompt is empty or no Unicode text, the template refuses it, or it leaves no room in the
                context window.
        """
        if not prompt.text.strip():
            raise PromptError(f"prompt {prompt.id!r} is empty")
        if not is_unicode(prompt):
            raise PromptError(f"prompt {prompt.id!r} is not Unicode text: it has half of a character")
        chat = self.encoder.chat(prompt.messages, add_generation_prompt=True, enable_thinking=True)
        tail = self.decode(chat.ids[chat.spans[-1].stop :])
        opened = tail.rfind(self.config.open_tag) > tail.rfind(self.config.close_tag)
        ids = chat.ids if opened else chat.ids + self._tag(self.config.open_tag) + self.encoder.text("\n")
        num_tokens = len(ids) + len(self.prefill(prompt))
        if self.context_tokens is not None and num_tokens + self.reserve_tokens > self.context_tokens:
            raise PromptError(
                f"prompt {prompt.id!r} has {num_tokens} tokens; with {self.reserve_tokens} kept free for a step, "
                f"that exceeds the reasoner's context window of {self.context_tokens}"
            )
        return ids

    def prefill(self, prompt: Prompt) -> Tokens:
        """What already stands in the thinking: the attacker's words, so the monitor reads them like sampled ones."""
        return Tokens.sampled(self.encoder.text(prompt.prefill))

    def trace_text(self, tokens: Tokens) -> str:
        """What monitors read of a trace: the reasoner's own tokens, without the closing tag."""
        return self._thinking(tokens.own())

    def full_trace_text(self, tokens: Tokens) -> str:
        """A trace as it stands, injected tokens included, without the closing tag."""
        return self._thinking(tokens.ids)

    def monitored(self, trace: Tokens, answer: Tokens, with_injected: bool = False) -> str:
        """What monitors read of an output: the trace, and behind a blank line what there is of the answer.

        Args:
            trace: the trace.
            answer: what there is of the answer; its tags, where the reasoner thinks in it again, are left out.
            with_injected: whether injected tokens are read too.
        """
        thinking = self.full_trace_text(trace) if with_injected else self.trace_text(trace)
        if not len(answer):
            return thinking
        ids = answer.ids if with_injected else answer.own()
        text = self._untagged(ids).lstrip()
        return f"{thinking.rstrip()}\n\n{text}" if thinking.strip() else text

    def longest_step(self, max_step_tokens: int) -> int:
        """How many tokens a step may have, where the limits grant `max_step_tokens`."""
        return min(max_step_tokens, self.config.step_tokens or max_step_tokens)

    def answer_text(self, tokens: Tokens) -> str:
        """An answer, a defense's refusal included, without control tokens and surrounding blanks."""
        return self.decode(tokens.ids, plain=True).strip()

    def decode(self, ids: Sequence[int], plain: bool = False) -> str:
        """Token ids as text, a placeholder for each soft row; `plain` leaves special tokens out."""
        if not any(map(is_soft, ids)):
            return self._decode(ids, plain)
        runs = ((soft, list(run)) for soft, run in groupby(ids, key=is_soft))
        return "".join("".join(map(placeholder, run)) if soft else self._decode(run, plain) for soft, run in runs)

    def _decode(self, ids: Sequence[int], plain: bool) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=plain, clean_up_tokenization_spaces=False))

    def _thinking(self, ids: Sequence[int]) -> str:
        if len(self.close_ids) == 1:
            stop = ids.index(self.close_ids[0]) if self.close_ids[0] in ids else len(ids)
            return self.decode(ids[:stop], plain=True)
        text = self.decode(ids, plain=True)
        before, tag, _ = text.rpartition(self.config.close_tag)
        return before if tag else text

    def _untagged(self, ids: Sequence[int]) -> str:
        """Text without tags; a tag that is a token of its own is recognised by its id alone."""
        tags = [(self.open_ids, self.config.open_tag), (self.close_ids, self.config.close_tag)]
        single = {tag_ids[0] for tag_ids, _ in tags if len(tag_ids) == 1}
        text = self.decode([each for each in ids if each not in single], plain=True)
        for tag_ids, tag in tags:
            text = text if len(tag_ids) == 1 else text.replace(tag, "")
        return text

    def _tag(self, tag: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(tag, add_special_tokens=False))


def is_unicode(prompt: Prompt) -> bool:
    """Whether every text of a prompt can be encoded; bytes that a shell could not read become lone surrogates."""
    try:
        "".join([*(message.content for message in prompt.messages), prompt.prefill]).encode()
    except UnicodeEncodeError:
        return False
    return True
