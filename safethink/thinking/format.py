# pyright: standard
"""The format of a reasoner's thinking: its family, tags, turns and the token ids that a defense injects.

`thinking.opening` turns prompts into token ids by it, `thinking.reading` turns token ids into text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from itertools import groupby
from types import MappingProxyType

from transformers import PreTrainedTokenizerBase

from safethink.config import RunConfig, ThoughtConfig, families
from safethink.config.family import Family, Traits
from safethink.errors import ConfigError
from safethink.prompts import Message
from safethink.refusals import REFUSAL
from safethink.thinking.chat import ChatEncoder, Suffix
from safethink.thinking.declaration import declared_tags
from safethink.thinking.delimiters import Tag
from safethink.thinking.template_args import TemplateArg, dated, program_of, rendering_args
from safethink.tokens import is_soft, placeholder

_HEADER_TOKENS = 16
"""No header of a message is longer."""


@dataclass(frozen=True)
class Thought:
    """The format of one reasoner's thinking.

    Attributes:
        config: what its user says of it; the rest is the family's.
        tokenizer: the reasoner's.
        context_tokens: size of the reasoner's context window; None where it has no limit.
        reserve_tokens: tokens of the window that a prompt must leave free, so that a step can follow.
        model_type: the reasoner's architecture, as its configuration names it; None where that is not known.
        template_args: what its user hands to the chat template, beside the switch of the thinking.
    """

    config: ThoughtConfig
    tokenizer: PreTrainedTokenizerBase
    context_tokens: int | None = None
    reserve_tokens: int = 1
    model_type: str | None = None
    template_args: Mapping[str, TemplateArg] = field(default_factory=dict)

    @classmethod
    def today(
        cls,
        config: ThoughtConfig,
        tokenizer: PreTrainedTokenizerBase,
        context_tokens: int | None = None,
        reserve_tokens: int = 1,
        model_type: str | None = None,
        template_args: Mapping[str, TemplateArg] = MappingProxyType({}),
    ) -> Thought:
        """The format with the day settled, where the chat template writes it down and the user does not say it."""
        settled = dated(_source_of(tokenizer), template_args, date.today())
        return cls(config, tokenizer, context_tokens, reserve_tokens, model_type, settled)

    @cached_property
    def encoder(self) -> ChatEncoder:
        """Encodes text so that it cannot contain a control token."""
        return ChatEncoder(self.tokenizer)

    @cached_property
    def family(self) -> Family:
        """The family that is named, or else the one that fits, with what the configuration says otherwise.

        Raises:
            ConfigError: several families fit alike, or none; or the tokenizer declares tags that cannot be used.
            PromptError: the tokenizer has no chat template to tell the family from.
        """
        config, declared = self.config, families.DECLARED
        tags_are_said = config.open_tag is not None and bool(config.close_tag)
        if config.family == declared.name and not tags_are_said and declared_tags(self.tokenizer) is None:
            raise ConfigError(f"thought.family is {declared.name}, and the tokenizer declares no tags of a thinking")
        if config.family == families.PLAIN.name and (config.open_tag or config.close_tag):
            raise ConfigError(f"thought.family is {config.family}, which has no tags: leave open_tag and close_tag out")
        if config.family not in (families.AUTO, declared.name) or (config.family == declared.name and tags_are_said):
            return config.applied_to(families.named(config.family))
        traits = self._traits()
        if tags_are_said:
            return config.applied_to(families.choose(replace(traits, declared=None), otherwise=declared))
        return config.applied_to(families.choose(traits))

    @cached_property
    def rendering_args(self) -> dict[str, object]:
        """Arguments that the chat template is rendered with: the user's, and the switch of the thinking.

        Raises:
            ConfigError: the template does not read one of the user's.
        """
        source = _source_of(self.tokenizer)
        return rendering_args(source, self.template_args, self.family.thinks)

    @property
    def settings(self) -> ThoughtConfig:
        """The configuration with nothing left to the family, as the record of a run should have it."""
        return ThoughtConfig.complete(self.family)

    def as_json(self) -> dict[str, object]:
        """The settings, and what the chat template is handed beside the switch of the thinking."""
        args = {"template_args": dict(self.template_args)} if self.template_args else {}
        return {"thought": self.settings.model_dump(mode="json"), **args}

    def complete(self, run: RunConfig) -> RunConfig:
        """A run's configuration with nothing left to the reasoner's family or to the day."""
        reasoner = run.reasoner.replace(template_args=dict(self.template_args))
        return run.replace(thought=self.settings, reasoner=reasoner)

    @cached_property
    def unswitched(self) -> Family | None:
        """The family that the chat template shows, if the template is the same whether it is to think or not.

        None where the template switches the thinking, and where nothing shows one.
        """
        # What the vocabulary has says nothing here: one that does not reason may share it.
        on, off = (replace(self._traits(thinks), vocabulary=frozenset()) for thinks in (True, False))
        shown = next(iter(families.fitting(on)), None)
        if shown is None or shown.is_ambiguous or shown.close_tag in off.generation_prompt:
            return None
        return shown if on.prompt == off.prompt else None

    @property
    def banned_texts(self) -> tuple[str, ...]:
        """Tags and delimiters: no prefix may contain them, also where they are spelled in ordinary tokens."""
        tags = (self.family.open_tag, self.family.close_tag, *self.family.message_breaks, *self.family.step_delimiter)
        return tuple(filter(None, tags))

    @cached_property
    def opener(self) -> Tag:
        """Tag that opens the thinking."""
        return self._tag(self.family.open_tag)

    @cached_property
    def closer(self) -> Tag:
        """Tag with which the model closes its thinking; empty where it thinks in turns."""
        return self._tag(self.family.close_tag)

    @cached_property
    def close_ids(self) -> tuple[int, ...]:
        """Token ids with which a defense closes the thinking: one where the closing tag is a token of its own.

        A tag that is spelled may end in the same token as the break behind it, as `>` does in many vocabularies. That
        token then closes, since it is what the reasoner was trained on.
        """
        return self.turns[-1] if self.turns else self._closed_and_refused[0]

    def injection(self, prefix_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Token ids that are put into a trace for a prefix: with the separator, encoded as one text.

        So `Wait.` and a line break are the one token that they are wherever the reasoner has read them.
        """
        if not prefix_ids:
            return ()
        if any(map(is_soft, prefix_ids)):
            return prefix_ids + self.separator_ids
        text = self.encoder.said(prefix_ids)
        together = self.encoder.injected(text + self.family.prefix_separator)
        return together if self.encoder.injected(text) == prefix_ids else prefix_ids + self.separator_ids

    @cached_property
    def separator_ids(self) -> tuple[int, ...]:
        """Token ids injected right behind a prefix."""
        return self.encoder.inside(self.family.prefix_separator)

    @cached_property
    def refusal_ids(self) -> tuple[int, ...]:
        """Token ids of the refusal that a defense writes itself, to follow `close_ids`, end of turn included."""
        end_id = self.tokenizer.eos_token_id
        return self._closed_and_refused[1] + ((end_id,) if isinstance(end_id, int) else ())

    @cached_property
    def _closed_and_refused(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The closing tag and the refusal behind it, encoded as one text and parted behind the tag's last token."""
        closing = self.family.close_lead + self.family.close_tag
        ids = self.encoder.template(f"{closing}{self.family.answer_break}{REFUSAL}")
        lengths = (length for length in range(len(ids)) if closing.strip() in self.decode(ids[:length]))
        length = next(lengths, None)
        if length is None:
            # Some decoders do not give a tag back as it was.
            return self.encoder.template(closing), self.encoder.inside(f"{self.family.answer_break}{REFUSAL}")
        return ids[:length], ids[length:]

    @cached_property
    def turns(self) -> tuple[tuple[int, ...], ...]:
        """Token ids behind each turn of a reasoner that thinks over several: its end, the next question, its opening.

        The last one asks for the answer. Empty for a reasoner that thinks in one turn.
        """
        return tuple(self._turn(question) for question in self.family.stage_turns[1:])

    def is_between_messages(self, ids: tuple[int, ...]) -> bool:
        """Whether a trace ends in the header of a message, which is neither the message before nor the one to come.

        A header is short. What goes on without a message is no header, so that nothing can hide in one.
        """
        near = ids[: -_HEADER_TOKENS - 1 : -1]
        ends = ((tag.parts[0], tag.last_id) for tag in self.breaks if len(tag.parts) > 1)
        return any(first in near and last not in near[: near.index(first)] for first, last in ends if last is not None)

    def whole_messages(self, trace: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """`new` tokens behind `trace` without the header of a message at their end that was cut before it was open."""
        while new and self.family.message_breaks and self.is_between_messages(trace + new):
            new = new[:-1]
        return new

    def longest_step(self, max_step_tokens: int) -> int:
        """Most tokens of a step, where the limits grant `max_step_tokens`."""
        return min(max_step_tokens, self.family.step_tokens or max_step_tokens)

    def decode(self, ids: Sequence[int], plain: bool = False) -> str:
        """Token ids as text, a placeholder for each soft row; `plain` leaves special tokens out."""
        if not any(map(is_soft, ids)):
            return self._decode(ids, plain)
        runs = ((soft, list(run)) for soft, run in groupby(ids, key=is_soft))
        return "".join("".join(map(placeholder, run)) if soft else self._decode(run, plain) for soft, run in runs)

    def _decode(self, ids: Sequence[int], plain: bool) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=plain, clean_up_tokenization_spaces=False))

    @cached_property
    def breaks(self) -> tuple[Tag, ...]:
        """Control tags between the messages of a trace: headers, and an opener that is written again."""
        tags = (*map(self._tag, self.family.message_breaks), self.opener)
        return tuple(tag for tag in tags if tag.is_control)

    @cached_property
    def whole_closer(self) -> Tag:
        """Closing tag together with what the model writes in front of it, such as the end of a message."""
        return self._tag(self.family.close_lead + self.family.close_tag)

    def _turn(self, question: str) -> tuple[int, ...]:
        """Token ids that the template puts between two turns of the reasoner."""
        said = Message(role="user", content="?"), Message(role="assistant", content="!")
        messages = (*said, Message(role="user", content=question))
        chat = self.encoder.chat(messages, add_generation_prompt=True, template_args=self.rendering_args)
        return chat.ids[chat.spans[1].stop :]

    def _traits(self, thinks: bool = True) -> Traits:
        """The facts that tell the family, as they are where the model is to think."""
        source = _source_of(self.tokenizer)
        args = rendering_args(source, self.template_args, thinks)
        chat = self.encoder.chat((Message(role="user", content="?"),), add_generation_prompt=True, template_args=args)
        return Traits(
            template=program_of(source),
            prompt=self.decode(chat.ids),
            generation_prompt=self.decode(chat.ids[chat.spans[-1].stop :]),
            model_type=self.model_type,
            vocabulary=self.encoder.control,
            declared=declared_tags(self.tokenizer),
        )

    def rendered(
        self, messages: Sequence[Message], suffix: Suffix = "", tags: Sequence[str] = ()
    ) -> tuple[tuple[int, ...], str]:
        """Token ids of a chat up to where the model takes over, and the text behind the last message's content.

        Args:
            messages: the turns, in order.
            suffix: text of ours behind what the template renders, encoded with it as one text.
            tags: those of the thinking, which the template may act on where an assistant said them.
        """
        chat = self.encoder.chat(messages, suffix, tags, add_generation_prompt=True, template_args=self.rendering_args)
        return chat.ids, self.decode(chat.ids[chat.spans[-1].stop :])

    def _tag(self, text: str) -> Tag:
        return Tag.of(text, self.encoder, self.decode, self.family.header_fields)


def _source_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Source of the chat template that is used without tools; empty where there is none."""
    template = tokenizer.chat_template
    return str(template.get("default", "")) if isinstance(template, dict) else template or ""
