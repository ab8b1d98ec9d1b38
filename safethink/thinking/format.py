# pyright: standard
"""Where thinking opens and closes: prompts opened as token ids, traces and answers read back as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from safethink.config import ThoughtConfig, families
from safethink.config.families import Family, Traits
from safethink.defenses.effects import Defense
from safethink.errors import PromptError
from safethink.prompts import Message, Prompt
from safethink.refusals import REFUSAL
from safethink.thinking import turns
from safethink.thinking.chat import ChatEncoder
from safethink.thinking.delimiters import Tag
from safethink.tokens import Tokens, is_soft, placeholder

_HEADER_TOKENS = 16
"""No header of a message is longer."""


@dataclass(frozen=True)
class Thought:
    """How one reasoner's thinking is written down.

    Attributes:
        config: what its user says of it; the rest is the family's.
        tokenizer: the reasoner's.
        context_tokens: size of the reasoner's context window; None where it has no limit.
        reserve_tokens: tokens of the window that a prompt must leave free, so that a step can follow.
        model_type: the reasoner's architecture, as its configuration names it; None where that is not known.
    """

    config: ThoughtConfig
    tokenizer: PreTrainedTokenizerBase
    context_tokens: int | None = None
    reserve_tokens: int = 1
    model_type: str | None = None

    @cached_property
    def encoder(self) -> ChatEncoder:
        """Encodes text so that it cannot contain a control token."""
        return ChatEncoder(self.tokenizer)

    @cached_property
    def family(self) -> Family:
        """The family that is named, or else the one that fits, with what the configuration says otherwise.

        Raises:
            ConfigError: several families fit alike.
            PromptError: the tokenizer has no chat template to tell the family from.
        """
        auto = self.config.family == families.AUTO
        found = families.choose(self._traits()) if auto else families.named(self.config.family)
        return self.config.applied_to(found)

    @property
    def settings(self) -> ThoughtConfig:
        """The configuration with nothing left to the family, as the record of a run should have it."""
        return ThoughtConfig.complete(self.family)

    @property
    def banned_texts(self) -> tuple[str, ...]:
        """What no prefix may contain, also where it is spelled in ordinary tokens: tags and delimiters."""
        tags = (self.family.open_tag, self.family.close_tag, *self.family.message_breaks, *self.family.step_delimiter)
        return tuple(filter(None, tags))

    @cached_property
    def opener(self) -> Tag:
        """What opens the thinking."""
        return self._tag(self.family.open_tag)

    @cached_property
    def closer(self) -> Tag:
        """What closes the thinking where the model writes it; empty where it thinks in turns."""
        return self._tag(self.family.close_tag)

    @cached_property
    def open_ids(self) -> tuple[int, ...]:
        """What opens the thinking: one id where the opening tag is a token of its own."""
        return self.encoder.template(self.family.open_tag)

    @cached_property
    def close_ids(self) -> tuple[int, ...]:
        """What a defense closes the thinking with: one id where the closing tag is a token of its own."""
        return self.turns[-1] if self.turns else self.encoder.template(self.family.close_lead + self.family.close_tag)

    @cached_property
    def separator_ids(self) -> tuple[int, ...]:
        """What is injected right behind a prefix."""
        return self.encoder.text(self.family.prefix_separator)

    @cached_property
    def refusal_ids(self) -> tuple[int, ...]:
        """The refusal that a defense writes itself, to follow `close_ids`, end of turn included."""
        end_id = self.tokenizer.eos_token_id
        refusal = self.encoder.text(f"{self.family.answer_break}{REFUSAL}")
        return refusal + ((end_id,) if isinstance(end_id, int) else ())

    @cached_property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """What follows each turn of a reasoner that thinks over several: its end, the next question, its opening.

        The last one asks for the answer. Empty for a reasoner that thinks in one turn.
        """
        return tuple(self._turn(question) for question in self.family.stage_turns[1:])

    def in_turns(self, defense: Defense) -> Defense:
        """A defense that has not begun, as it runs on this reasoner: over all turns and messages of its thinking."""
        return turns.in_turns(defense, self.turns, self.is_between_messages) if self.family.message_breaks else defense

    def is_between_messages(self, ids: tuple[int, ...]) -> bool:
        """Whether a trace ends in the header of a message, which is neither the message before nor the one to come.

        A header is short. What goes on without a message is no header, so that nothing can hide in one.
        """
        near = ids[: -_HEADER_TOKENS - 1 : -1]
        ends = ((tag.parts[0], tag.parts[-1]) for tag in self._breaks if len(tag.parts) > 1)
        return any(first in near and last not in near[: near.index(first)] for first, last in ends)

    def whole_messages(self, trace: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """`new` tokens behind `trace` without the header of a message at their end that was cut before it was open."""
        while new and self.family.message_breaks and self.is_between_messages(trace + new):
            new = new[:-1]
        return new

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
        ids, tail = self._rendered(self._first_turn(prompt))
        if tail.rfind(self.family.open_tag) <= tail.rfind(self.family.close_tag):
            ids += self.open_ids + self.encoder.text(self.family.open_break)
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
        text = self._untagged(answer.ids if with_injected else answer.own()).lstrip()
        return f"{thinking.rstrip()}\n\n{text}" if thinking.strip() else text

    def longest_step(self, max_step_tokens: int) -> int:
        """How many tokens a step may have, where the limits grant `max_step_tokens`."""
        return min(max_step_tokens, self.family.step_tokens or max_step_tokens)

    def answer_text(self, tokens: Tokens) -> str:
        """An answer, a defense's refusal included, without control tokens, its own tags and surrounding blanks."""
        text = self.decode(tokens.ids, plain=True).strip()
        for tag in self.family.answer_tags:
            text = text.removeprefix(tag).removesuffix(tag).strip()
        return text

    def decode(self, ids: Sequence[int], plain: bool = False) -> str:
        """Token ids as text, a placeholder for each soft row; `plain` leaves special tokens out."""
        if not any(map(is_soft, ids)):
            return self._decode(ids, plain)
        runs = ((soft, list(run)) for soft, run in groupby(ids, key=is_soft))
        return "".join("".join(map(placeholder, run)) if soft else self._decode(run, plain) for soft, run in runs)

    def _decode(self, ids: Sequence[int], plain: bool) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=plain, clean_up_tokenization_spaces=False))

    def _thinking(self, ids: tuple[int, ...]) -> str:
        """The text of a trace, its messages one below the other."""
        text = "\n\n".join(filter(None, (self.decode(run, plain=True) for run in self._messages(self._open_part(ids)))))
        # Spelled out, it closes only where the trace ends: before that it is what somebody wrote.
        is_closed = self.closer.is_spelled and ids and self.closer.ends(ids, len(ids) - 1)
        return text.rpartition(self.family.close_tag)[0] if is_closed else text

    def _untagged(self, ids: tuple[int, ...]) -> str:
        """The text of an answer without what opens and closes thinking."""
        while self.closer.is_control and (closed := self.closer.find(ids)) is not None:
            ids = ids[: closed.start] + ids[closed.stop :]
        text = "".join(self.decode(run, plain=True) for run in self._messages(ids))
        for tag in (self.opener, self.closer):
            text = text.replace(tag.text, "") if tag.is_spelled else text
        return text

    def _open_part(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """A trace without the control tokens that close it, and whatever follows them."""
        if self.turns and ids[-len(self.close_ids) :] == self.close_ids:
            return ids[: -len(self.close_ids)]
        closed = self.closer.find(ids) if self.closer.is_control else None
        if closed is None:
            return ids
        whole = self._whole_closer.find(ids) if self._whole_closer.is_control else None
        return ids[: whole.start if whole is not None and whole.stop == closed.stop else closed.start]

    def _messages(self, ids: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The messages of a trace. An opener that the model writes again is no part of them."""
        while True:
            found = [span for tag in self._breaks if (span := tag.find(ids)) is not None]
            if not found:
                yield ids
                return
            first = min(found, key=lambda span: span.start)
            yield ids[: first.start]
            ids = ids[first.stop :]

    @cached_property
    def _breaks(self) -> tuple[Tag, ...]:
        tags = (*map(self._tag, self.family.message_breaks), self.opener)
        return tuple(tag for tag in tags if tag.is_control)

    @cached_property
    def _whole_closer(self) -> Tag:
        return self._tag(self.family.close_lead + self.family.close_tag)

    def _first_turn(self, prompt: Prompt) -> tuple[Message, ...]:
        if not self.family.stage_turns:
            return prompt.messages
        *before, last = prompt.messages
        return (*before, last.model_copy(update={"content": last.content + self.family.stage_turns[0]}))

    def _turn(self, question: str) -> tuple[int, ...]:
        """What the template puts between two turns of the reasoner."""
        said = Message(role="user", content="?"), Message(role="assistant", content="!")
        chat = self.encoder.chat(
            (*said, Message(role="user", content=question)), add_generation_prompt=True, enable_thinking=True
        )
        return chat.ids[chat.spans[1].stop :]

    def _traits(self) -> Traits:
        template = self.tokenizer.chat_template
        source = template.get("default", "") if isinstance(template, dict) else template or ""
        _, tail = self._rendered((Message(role="user", content="?"),))
        return Traits(source, tail, self.model_type)

    def _rendered(self, messages: Sequence[Message]) -> tuple[tuple[int, ...], str]:
        """A chat up to where the model takes over, and what the template puts behind the last message."""
        chat = self.encoder.chat(messages, add_generation_prompt=True, enable_thinking=True)
        return chat.ids, self.decode(chat.ids[chat.spans[-1].stop :])

    def _tag(self, text: str) -> Tag:
        return Tag.of(text, self.encoder, self.decode)


def is_unicode(prompt: Prompt) -> bool:
    """Whether every text of a prompt can be encoded; bytes that a shell could not read become lone surrogates."""
    try:
        "".join([*(message.content for message in prompt.messages), prompt.prefill]).encode()
    except UnicodeEncodeError:
        return False
    return True
