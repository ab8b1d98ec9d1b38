# pyright: standard
"""Chats rendered once and encoded so that control tokens come from the template alone.

A chat template is text with holes. Filling the holes first and encoding afterwards lets a message that contains
`<|im_end|>` close its own turn. Here the template is rendered with placeholders, its control tokens are found, and only
then are the messages put in: whatever they contain is encoded as text.

The `sanitize_control_tokens` of transformers is narrower: it lets a template act on what a message contains, and keeps
only those added tokens out that the template spells, which a reasoner's `</think>` need not be among.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

from jinja2.exceptions import TemplateError
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from safethink.errors import ConfigError, PromptError
from safethink.prompts import Message
from safethink.tokens import EXTENSION_TOKEN

SHORT_CHARACTERS = 2000
"""Texts up to this length are kept with their tokens."""
NUM_SHORT = 512
"""Number of texts in that cache."""
_SENTENCEPIECE_BLANK = "\u2581"
_HTML_TAG = re.compile(
    "</?(html|body|div|span|p|h[1-6]|table|caption|thead|tbody|tfoot|tr|th|td|ul|ol|li|blockquote|footer|iframe|img|a"
    "|strong|em|b|i|u|s|sub|sup|code|pre)>"
)
_TAG = re.compile("</?[a-z0-9]+>")
_EDGE = "\u2003"
"""Blank put around a placeholder: where the template trims a message, it goes."""
_PLACEHOLDER = re.compile(f"({_EDGE}?)SafeThinkMessage([0-9]+)Placeholder({_EDGE}?)")


@dataclass(frozen=True, slots=True)
class EncodedChat:
    """A chat as token ids.

    Attributes:
        ids: the whole chat, as the template renders it.
        spans: for each message, the positions in `ids` that hold its content. A token shared with the template counts.
    """

    ids: tuple[int, ...]
    spans: tuple[range, ...]


class ChatEncoder:
    """Encodes text and chats for one tokenizer."""

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
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        named = {*tokenizer.all_special_tokens, *_TAG.findall(str(tokenizer.chat_template))}
        control = [token for token in state["added_tokens"] if _is_control(token) or token["content"] in named]
        self._control_ids = {token["content"].strip(): token["id"] for token in control}
        self._control_pattern = _any_of(control)
        self._plain = _without(control, state)
        self._rendered: dict[tuple[object, ...], str] = {}
        # A question is asked again with a longer trace, and the rest of it stays as it is.
        self._encode_short = lru_cache(NUM_SHORT)(self._encode)

    def encode(self, text: str) -> Encoding:
        """Encode `text` as text, with the places of its tokens."""
        return self._encode_short(text) if len(text) <= SHORT_CHARACTERS else self._encode(text)

    def _encode(self, text: str) -> Encoding:
        return self._plain.encode(text, add_special_tokens=False)

    def text(self, text: str) -> tuple[int, ...]:
        """Encode `text` as text: control strings in it are spelled out, never control tokens."""
        return tuple(self.encode(text).ids)

    def behind(self, before: str, text: str) -> tuple[int, ...]:
        """Encode `text` as it is encoded right behind `before`; on its own where the two would merge.

        Some tokenizers write a word at the start of a text in another way than the same word further on.
        """
        start, whole = self.text(before), self.text(before + text)
        return whole[len(start) :] if whole[: len(start)] == start else self.text(text)

    def injected(self, text: str) -> tuple[int, ...]:
        """Encode what a defense injects: as `text` does, but the tokens of a vocabulary extension are themselves."""
        ids: tuple[int, ...] = ()
        end = 0
        for match in EXTENSION_TOKEN.finditer(text):
            if match[0] in self._control_ids:
                ids += (*self.text(text[end : match.start()]), self._control_ids[match[0]])
                end = match.end()
        return ids + self.text(text[end:])

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
        """Encode `text` as a template's own: control strings in it are control tokens."""
        encoded = (((part,) if isinstance(part, int) else self.text(part)) for part in self.parts(text))
        return tuple(chain.from_iterable(encoded))

    def chat(self, messages: Sequence[Message], suffix: str = "", **template_args: Any) -> EncodedChat:
        """Encode `messages` in the tokenizer's chat template.

        Equals `tokenizer.apply_chat_template` token for token where no message contains a control string. A template
        that wants contents as lists of parts, as those of vision models do, is given them so.

        Args:
            messages: the turns, in order.
            suffix: text of ours that follows what the template renders.
            template_args: handed to the template, such as `add_generation_prompt=True`.

        Raises:
            PromptError: if the template refuses the turns or leaves one out.
            ConfigError: if the tokenizer has no template.
        """
        try:
            return self._chat(messages, suffix, template_args, as_parts=False)
        except PromptError:
            try:
                return self._chat(messages, suffix, template_args, as_parts=True)
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
        self, messages: Sequence[Message], suffix: str, template_args: dict[str, Any], as_parts: bool
    ) -> EncodedChat:
        rendered = self._render(messages, template_args, as_parts) + suffix
        names = [f"message {index} ({message.role})" for index, message in enumerate(messages)]
        return self._filled(rendered, [message.content for message in messages], names)

    def _filled(self, template: str, contents: Sequence[str], names: Sequence[str]) -> EncodedChat:
        builder = _Builder(self.encode, len(contents))
        end = 0
        for found in _PLACEHOLDER.finditer(template):
            self._add_template(builder, template[end : found.start()])
            index = int(found[2])
            content = contents[index] if found[1] else contents[index].lstrip()
            builder.add_content(index, content if found[3] else content.rstrip())
            end = found.end()
        self._add_template(builder, template[end:])
        builder.flush()
        for name, span in zip(names, builder.spans, strict=True):
            if span is None:
                raise PromptError(f"the chat template leaves out {name}")
        return EncodedChat(tuple(builder.ids), tuple(span for span in builder.spans if span is not None))

    def _render(self, messages: Sequence[Message], template_args: dict[str, Any], as_parts: bool) -> str:
        """The template around holes: it sees roles alone, so equal roles give equal text."""
        roles = tuple(message.role for message in messages)
        key = (roles, as_parts, tuple(sorted(template_args.items())))
        if key in self._rendered:
            return self._rendered[key]
        turns = [
            {"role": role, "content": [{"type": "text", "text": hole(index)}] if as_parts else hole(index)}
            for index, role in enumerate(roles)
        ]
        try:
            rendered = str(self._tokenizer.apply_chat_template(turns, tokenize=False, **template_args))
        except (TemplateError, TypeError, ValueError) as error:
            if not self._tokenizer.chat_template:
                raise ConfigError(
                    f"tokenizer {self._tokenizer.name_or_path!r} has no chat template: take a model that was trained "
                    "to chat, or put its template beside the tokenizer as chat_template.jinja"
                ) from error
            raise PromptError(f"the chat template refuses the turns [{', '.join(roles)}]: {error}") from error
        return self._rendered.setdefault(key, rendered)

    def _add_template(self, builder: _Builder, piece: str) -> None:
        for part in self.parts(piece):
            if isinstance(part, int):
                builder.add_control(part)
            else:
                builder.add_text(part)


def hole(index: int) -> str:
    """Placeholder in a template for the content of that index, see `ChatEncoder.fill`."""
    return f"{_EDGE}SafeThinkMessage{index}Placeholder{_EDGE}"


class _Builder:
    """Gathers text between control tokens and encodes each stretch as a whole, as the tokenizer itself would."""

    def __init__(self, encode: Callable[[str], Encoding], num_messages: int) -> None:
        self.ids: list[int] = []
        self.spans: list[range | None] = [None] * num_messages
        self._encode = encode
        self._stretch = ""
        self._contents: list[tuple[int, int, int]] = []

    def add_text(self, text: str) -> None:
        self._stretch += text

    def add_content(self, index: int, text: str) -> None:
        self._contents.append((index, len(self._stretch), len(self._stretch) + len(text)))
        self._stretch += text

    def add_control(self, token_id: int) -> None:
        self.flush()
        self.ids.append(token_id)

    def flush(self) -> None:
        encoding = self._encode(self._stretch)
        offsets = encoding.offsets if self._contents else []
        for index, start, stop in self._contents:
            before = bisect_right(offsets, start, key=lambda token: token[1])
            until = bisect_left(offsets, stop, key=lambda token: token[0])
            self.spans[index] = range(len(self.ids) + before, len(self.ids) + max(before, until))
        self.ids += encoding.ids
        self._stretch, self._contents = "", []


def _is_control(token: dict[str, Any]) -> bool:
    """Whether an added token may control something.

    Runs of blanks and the tags of HTML are added tokens in some vocabularies, such as Gemma's, so that they are short.
    They control nothing, unless the tokenizer or its chat template calls them by name, and a text that holds them is
    encoded by them. Any other is taken to control: `<think>` is not marked special in Qwen's vocabulary.
    """
    text = token["content"].replace(_SENTENCEPIECE_BLANK, " ")
    return bool(token["special"] or (text.strip() and not _HTML_TAG.fullmatch(text)))


def _any_of(control: list[dict[str, Any]]) -> re.Pattern[str]:
    """Match any control token, the longest first, with the blanks that it swallows."""

    def pattern(token: dict[str, Any]) -> str:
        return r"\s*" * token["lstrip"] + re.escape(token["content"]) + r"\s*" * token["rstrip"]

    longest_first = sorted(control, key=lambda token: len(token["content"]), reverse=True)
    return re.compile("|".join(map(pattern, longest_first)) or r"(?!)")


def _without(control: list[dict[str, Any]], state: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer of `state` again, unable to produce a control token.

    Raises:
        ConfigError: an added token that is none would have another id there.
    """
    model = dict(state["model"])
    names = {token["content"] for token in control} - {model.get("unk_token")}
    control_ids = {token["id"] for token in control}
    kept = [token for token in state["added_tokens"] if token["id"] not in control_ids]
    if isinstance(model.get("vocab"), dict):
        # Some models match a whole word against the vocabulary; a control token must not be there to be found.
        pieces = {name: index for name, index in model["vocab"].items() if name not in names}
        # An added token that the vocabulary is without gets the next free id, and there are more of those now.
        model["vocab"] = pieces | {token["content"]: token["id"] for token in kept}
    if "merges" in model:
        # Nor may merges put one together.
        model["merges"] = [merge for merge in model["merges"] if names.isdisjoint(_merged(merge))]
    changes = {"model": model, "added_tokens": kept, "post_processor": None, "truncation": None, "padding": None}
    plain = Tokenizer.from_str(json.dumps(state | changes))
    for token in kept:
        if plain.token_to_id(token["content"]) != token["id"]:
            raise ConfigError(f"the tokenizer's added token {token['content']!r} cannot be told from control tokens")
    return plain


def _merged(merge: str | list[str]) -> tuple[str, str, str]:
    """Both parts of a merge, and its result; older files write it as one string."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second, first + second
