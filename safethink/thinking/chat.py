# pyright: standard
"""Chats rendered once and encoded so that control tokens come from the template alone.

A chat template is text with holes. Filling the holes first and encoding afterwards lets a message that contains
`<|im_end|>` close its own turn. Here the template is rendered with placeholders, its control tokens are found, and only
then are the messages put in: whatever they contain is encoded as text.

What a template decides from contents, such as to leave earlier thinking out, it cannot decide from holes. So where it
is to, it is rendered a second time with the words in place and their control strings masked; see `ChatEncoder.chat`.

The `sanitize_control_tokens` of transformers is narrower: it lets a template act on what a message contains, and keeps
only those added tokens out that the template spells, which a reasoner's `</think>` need not be among.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeAlias

from jinja2.exceptions import TemplateError
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from safethink.errors import ConfigError, PromptError
from safethink.prompts import Message
from safethink.thinking.control_tokens import any_of, control_tokens, further_on, without
from safethink.thinking.holes import EncodedChat, Stretches, content_for, hole, holes_in, tail_of, with_contents
from safethink.tokens import EXTENSION_TOKEN, num_shared

SHORT_CHARACTERS = 2000
"""Texts up to this length are kept with their tokens."""
NUM_SHORT = 512
"""Number of texts in that cache."""
TOOL_TAGS = ("<tool_response>", "</tool_response>")
"""Around a tool's answer in a user's turn, where a template looks for them (Qwen3 and what follows it)."""
_LEAD_IN = "a\n"
"""A word, so that what a tokenizer puts in front of a text comes before it; and a line break, which ends it."""
_WORD = "A"
"""Stands for the words that follow a text."""
_FIRST_MASK = 0xF0000
"""First of the private characters that stand for control strings while a template reads contents."""
_MASK = re.compile("[\U000f0000-\U000ffffd]")


Suffix: TypeAlias = str | Callable[[str], str]
"""Text of ours behind a rendered chat, or what makes it from the text behind the last message."""


class ChatEncoder:
    """Encodes text and chats for one tokenizer.

    Attributes:
        control: the control strings of its vocabulary.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare a second tokenizer that knows no control tokens.

        Args:
            tokenizer: one backed by the `tokenizers` library.

        Raises:
            ConfigError: if it is not, so that nothing could keep control tokens out of users' text.
        """
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ConfigError(f"tokenizer {tokenizer.name_or_path!r} is not backed by the tokenizers library")
        self._tokenizer = tokenizer
        control = control_tokens(tokenizer)
        self._control_ids = {token["content"].strip(): token["id"] for token in control}
        self.control = frozenset(self._control_ids)
        self._control_pattern = any_of(control)
        self._plain = without(control, tokenizer)
        self._further = further_on(self._plain)
        self._masks = {token["content"].strip(): chr(_FIRST_MASK + index) for index, token in enumerate(control)}
        self._unmasking = str.maketrans({mask: text for text, mask in self._masks.items()})
        self._rendered: dict[tuple[object, ...], str] = {}
        # A question is asked again with a longer trace, and the rest of it stays as it is.
        self._encode_short = lru_cache(NUM_SHORT)(self._encode)

    def encode(self, text: str) -> Encoding:
        """Encode `text` as text, with the places of its tokens."""
        return self._encode_short(text) if len(text) <= SHORT_CHARACTERS else self._encode(text)

    def _encode(self, text: str) -> Encoding:
        return self._plain.encode(text, add_special_tokens=False)

    def _encode_stretch(self, text: str, is_first: bool) -> Encoding:
        """Encode the text up to a control token, or between two, as the tokenizer does within a chat."""
        if is_first or self._further is self._plain:
            return self.encode(text)
        return self._further.encode(text, add_special_tokens=False)

    def text(self, text: str) -> tuple[int, ...]:
        """Encode `text` as text: control strings in it are spelled out, never control tokens."""
        return tuple(self.encode(text).ids)

    def behind(self, before: str, text: str) -> tuple[int, ...]:
        """Encode `text` as it is encoded right behind `before`; on its own where the two would merge.

        Some tokenizers write a word at the start of a text in another way than the same word further on.
        """
        start, whole = self.text(before), self.text(before + text)
        return whole[len(start) :] if whole[: len(start)] == start else self.text(text)

    @cached_property
    def lead_in(self) -> str:
        """Text to put before another one for it to be encoded as it is further on, behind a line break.

        Empty where that makes no difference: for all tokenizers but those that put a blank in front of a text, such as
        SentencePiece's, whose "Wait" at the start is another token than "Wait" on a new line.
        """
        return _LEAD_IN if self.behind(_LEAD_IN, "a") != self.text("a") else ""

    def inside(self, text: str) -> tuple[int, ...]:
        """Encode `text` as `text` does, but as it is further on in a text; `said` gives it back."""
        return self.behind(self.lead_in, text) if text else ()

    def begun(self, text: str) -> tuple[int, ...]:
        """Encode `text` as `inside` does, but with the line breaks at its end as whoever goes on writes them.

        Tokenizers of the GPT-2 kind split blanks that end a text otherwise than the same blanks in front of a word:
        two line breaks into one token, and into two.
        """
        if text.endswith("\n"):
            whole = self.inside(text + _WORD)
            for num_tokens in range(len(whole) - 1, 0, -1):
                if self.said(whole[:num_tokens]) == text:
                    return whole[:num_tokens]
        return self.inside(text)

    def said(self, ids: Sequence[int]) -> str:
        """The text of ids that stand further on in a text: a blank that they begin with belongs to it."""
        before = self.text(self.lead_in)
        start, whole = self._decode(before), self._decode((*before, *ids))
        return whole[len(start) :] if whole.startswith(start) else self._decode(ids)

    def injected(self, text: str) -> tuple[int, ...]:
        """Encode what a defense injects: as `inside` does, but the tokens of a vocabulary extension are themselves."""
        ids: tuple[int, ...] = ()
        end = 0
        for match in EXTENSION_TOKEN.finditer(text):
            if match[0] in self._control_ids:
                ids += (*self.inside(text[end : match.start()]), self._control_ids[match[0]])
                end = match.end()
        return ids + self.inside(text[end:])

    def parts(self, template: str) -> Iterator[int | str]:
        """Split template text at its control tokens: their ids, and what stands between them as text."""
        end = 0
        for match in self._control_pattern.finditer(template):
            if template[end : match.start()]:
                yield template[end : match.start()]
            yield self._control_ids[match[0].strip()]
            end = match.end()
        if template[end:]:
            yield template[end:]

    def template(self, text: str) -> tuple[int, ...]:
        """Encode `text` as a template's own, further on in a chat: control strings in it are control tokens."""
        encoded = (((part,) if isinstance(part, int) else self.inside(part)) for part in self.parts(text))
        return tuple(chain.from_iterable(encoded))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def chat(
        self,
        messages: Sequence[Message],
        suffix: Suffix = "",
        tags: Sequence[str] | None = None,
        add_generation_prompt: bool = False,
        template_args: Mapping[str, object] = MappingProxyType({}),
    ) -> EncodedChat:
        """Encode `messages` in the tokenizer's chat template.

        Equals `tokenizer.apply_chat_template` token for token where no message contains a control string, if the
        template reads contents or decides nothing from them. A template that wants contents as lists of parts, as those
        of vision models do, is given them so.

        The tags of its thinking that an assistant said the template may act on and keep: they are the reasoner's own.
        On a tool's answer in a user's words it may act as well, and that stays text, as all other control strings do.

        Args:
            messages: the turns, in order.
            suffix: text of ours that follows what the template renders; or what makes it, from the text that the
                template puts behind the last message.
            tags: of the reasoner's thinking, for a template that may decide from what the messages say; None for one
                that may not.
            add_generation_prompt: whether the template opens a turn of the model's own behind them.
            template_args: what else is handed to the template.

        Raises:
            PromptError: if the template refuses the turns or leaves one out.
            ConfigError: if the tokenizer has no template.
        """
        encode = self._chat if tags is None else partial(self._decided, tags)
        args = {"add_generation_prompt": add_generation_prompt, **template_args}
        try:
            return encode(messages, suffix, args, as_parts=False)
        except PromptError:
            try:
                return encode(messages, suffix, args, as_parts=True)
            except PromptError:
                pass
            raise

    def fill(self, template: str, contents: Sequence[str]) -> EncodedChat:
        """Encode a text with a `hole` for each of `contents`; only the text around the holes may hold control tokens.

        Raises:
            PromptError: if there is no hole for one of them.
        """
        return self._filled(template, contents, [f"content {index}" for index in range(len(contents))])

    def _chat(
        self, messages: Sequence[Message], suffix: Suffix, template_args: Mapping[str, object], as_parts: bool
    ) -> EncodedChat:
        rendered = self._render(messages, template_args, as_parts)
        rendered += _suffix(suffix, tail_of(rendered))
        names = [f"message {index} ({message.role})" for index, message in enumerate(messages)]
        return self._filled(rendered, [message.content for message in messages], names)

    def _decided(
        self,
        tags: Sequence[str],
        messages: Sequence[Message],
        suffix: Suffix,
        template_args: Mapping[str, object],
        as_parts: bool,
    ) -> EncodedChat:
        """Encode what the template makes of these very contents; as holes would be filled where that is the same."""
        filled = self._chat(messages, suffix, template_args, as_parts)
        contents = [message.content for message in messages]
        if any(_MASK.search(content) for content in contents):
            return filled
        # A tag of several control tokens is a message's header, which no content holds.
        tags = [tag for tag in tags if len(self._control_pattern.findall(tag)) <= 1]
        own = [each.role == "assistant" for each in messages]
        theirs = [self._masked(content, tags if mine else ()) for content, mine in zip(contents, own, strict=True)]
        shown = [
            self._masked(content, tags if mine else TOOL_TAGS) for content, mine in zip(contents, own, strict=True)
        ]
        rendered = self._apply(messages, theirs, template_args, as_parts)
        if shown != theirs:
            acted = _masked_where_said(self._apply(messages, shown, template_args, as_parts), shown, theirs)
            # Unless each was found, the template does not see what others spelled: as text it is harmless.
            if all(acted.count(tag) == rendered.count(tag) for tag in TOOL_TAGS):
                rendered = acted
        holes = self._render(messages, template_args, as_parts)
        says_tags = any(tag in said for tag in tags for said, mine in zip(theirs, own, strict=True) if mine)
        if not says_tags and rendered == with_contents(holes, theirs):
            return filled
        said = self._apply(messages, theirs, {**template_args, "add_generation_prompt": False}, as_parts)
        return self._encoded(rendered, theirs[-1], holes, num_shared(rendered, said), suffix)

    def _encoded(self, rendered: str, last: str, holes: str, said: int, suffix: Suffix) -> EncodedChat:
        """Encode a rendered chat in which masks stand for control strings that are text, and find the last message.

        Args:
            rendered: the chat.
            last: content of the last message.
            holes: the template around holes.
            said: length of the chat without what the template writes for the model to go on from.
            suffix: as of `chat`.
        """
        tail, core = tail_of(holes), last.strip()
        until = len(rendered) - len(tail) if rendered.endswith(tail) else said
        start = rendered.rfind(core, 0, until)
        if start < 0 or any(self._control_pattern.finditer(core)):
            # The template wrote it anew, or it holds the reasoner's own tags: no content then, but the template's.
            start, core = until, ""
        behind = rendered[start + len(core) :]
        builder = Stretches(self._encode_stretch, 1)
        self._add_template(builder, rendered[:start])
        builder.add_content(0, core.translate(self._unmasking))
        self._add_template(builder, behind + _suffix(suffix, behind))
        builder.flush()
        (span,) = builder.spans
        assert span is not None, "one content was added"
        return EncodedChat(tuple(builder.ids), (*[range(0)] * (sum(1 for _ in holes_in(holes)) - 1), span))

    def _masked(self, content: str, shown: Collection[str]) -> str:
        """A content with a mask for each control string in it that is none of the tags shown, and no part of one."""

        def mask(found: re.Match[str]) -> str:
            text = found[0].strip()
            return found[0] if found[0] in shown else found[0].replace(text, self._masks[text])

        either = "|".join([*map(re.escape, filter(None, shown)), self._control_pattern.pattern])
        return re.sub(either, mask, content)

    def _filled(self, template: str, contents: Sequence[str], names: Sequence[str]) -> EncodedChat:
        builder = Stretches(self._encode_stretch, len(contents))
        end = 0
        for found in holes_in(template):
            self._add_template(builder, template[end : found.start()])
            builder.add_content(int(found[2]), content_for(found, contents))
            end = found.end()
        self._add_template(builder, template[end:])
        builder.flush()
        for name, span in zip(names, builder.spans, strict=True):
            if span is None:
                raise PromptError(f"the chat template leaves out {name}")
        return EncodedChat(tuple(builder.ids), tuple(span for span in builder.spans if span is not None))

    def _render(self, messages: Sequence[Message], template_args: Mapping[str, object], as_parts: bool) -> str:
        """The template around holes: it sees roles alone, so equal roles give equal text."""
        roles = tuple(message.role for message in messages)
        key = (roles, as_parts, repr(sorted(template_args.items())))
        if key in self._rendered:
            return self._rendered[key]
        holes = [hole(index) for index in range(len(roles))]
        return self._rendered.setdefault(key, self._apply(messages, holes, template_args, as_parts))

    def _apply(
        self, messages: Sequence[Message], contents: Sequence[str], template_args: Mapping[str, object], as_parts: bool
    ) -> str:
        """The template with `contents` in place of the messages' own."""
        turns = [
            {"role": message.role, "content": [{"type": "text", "text": content}] if as_parts else content}
            for message, content in zip(messages, contents, strict=True)
        ]
        try:
            args: dict[str, Any] = dict(template_args)
            rendered = str(self._tokenizer.apply_chat_template(turns, tokenize=False, **args))
        except (TemplateError, TypeError, ValueError) as error:
            if not self._tokenizer.chat_template:
                raise ConfigError(
                    f"tokenizer {self._tokenizer.name_or_path!r} has no chat template: take a model that was trained "
                    "to chat, or put its template beside the tokenizer as chat_template.jinja"
                ) from error
            roles = ", ".join(message.role for message in messages)
            raise PromptError(f"the chat template refuses the turns [{roles}]: {error}") from error
        if as_parts and str(turns[-1]["content"]) in rendered:
            raise PromptError("the chat template takes contents as texts, not as lists of parts")
        return rendered

    def _add_template(self, builder: Stretches, piece: str) -> None:
        for part in self.parts(piece):
            if isinstance(part, int):
                builder.add_control(part)
            else:
                builder.add_text(part.translate(self._unmasking))


def _suffix(suffix: Suffix, tail: str) -> str:
    return suffix if isinstance(suffix, str) else suffix(tail)


def _masked_where_said(rendered: str, shown: Sequence[str], masked: Sequence[str]) -> str:
    """A rendered chat with what others than the assistant said masked again, wherever it stands."""
    for said, safe in zip(shown, masked, strict=True):
        rendered = rendered.replace(said.strip(), safe.strip()) if said != safe else rendered
    return rendered
