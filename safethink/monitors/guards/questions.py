# pyright: standard
"""The conversation so far as a model's token ids, in the form in which the model was trained to judge it.

Whatever prompt and trace contain, control tokens come from the form alone. Where a form has no control tokens around a
turn but plain words, a trace may spell those words too; nothing can tell them apart then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from safethink.errors import ConfigError, MonitorError, PromptError
from safethink.monitors.function import transcript
from safethink.monitors.guards.forms import Categories, Form
from safethink.prompts import Message, Prompt
from safethink.thinking.chat import ChatEncoder
from safethink.thinking.holes import EncodedChat, hole

_HOLE: Final = re.compile(r"\{(prompt|trace|policy|bos|eos)\}")
_SAMPLE: Final = Prompt.from_text("x")
_MARKS: Final = ("first-words-said", "last-words-said")
"""Words that no template has."""
TURN_ENDS: Final = ("<|eot_id|>", "<|eot|>", "<|im_end|>", "<end_of_turn>", "<|end_of_text|>", "<|endoftext|>", "</s>")
"""Control tokens by which published guards end their reply, next to what their tokenizers call the end of a text."""


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation as one model reads it.

    Attributes:
        ids: all of it, up to where the model is read.
        trace: the positions in `ids` that hold the trace.
    """

    ids: tuple[int, ...]
    trace: range


class Asker:
    """Writes conversations down in one form for one tokenizer.

    Attributes:
        name: what messages call the guard.
        encoder: encodes the tokenizer's text.
        num_policies: how many questions there are about one conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, form: Form, name: str = "") -> None:
        """Try the form on a sample.

        Args:
            tokenizer: the model's.
            form: how a conversation is written down.
            name: path of the guard as it was configured; empty for the tokenizer's own.

        Raises:
            ConfigError: the tokenizer has no chat template where one is needed, or one that leaves a turn out, or does
                not know the form's control tokens.
        """
        name = self.name = name or str(tokenizer.name_or_path)
        if form.text is None and not tokenizer.chat_template:
            raise ConfigError(f"guard {name!r} has no chat template")
        known = {token.content for token in tokenizer.added_tokens_decoder.values()}
        unknown = [token for token in form.control if token not in known]
        if unknown:
            raise ConfigError(f"guard {name!r} is asked with {unknown[0]!r}, which its tokenizer does not know")
        self.encoder = ChatEncoder(tokenizer)
        self.num_policies = max(1, len(form.policies))
        self._tokenizer, self._form = tokenizer, form
        self._rendered: dict[tuple[str, ...], str] = {}
        try:
            self._suffix = self._blanks() + form.forced
            sample = self.ask(_SAMPLE, "x")
        except (PromptError, MonitorError) as error:
            raise ConfigError(f"guard {name!r} is asked in the wrong form: {error.__cause__ or error}") from error
        self._before = self._last_stretch(sample)

    @cached_property
    def shares_trace(self) -> bool:
        """Whether the questions about one conversation are alike up to the end of the trace."""
        first, *others = [self.ask(_SAMPLE, "x", policy) for policy in range(self.num_policies)]
        kept = first.ids[: first.trace.stop]
        return all(other.ids[: other.trace.stop] == kept for other in others)

    def ask(self, prompt: Prompt, trace: str, policy: int = 0) -> Question:
        """Write down what was asked and thought.

        Args:
            prompt: what the reasoner was asked.
            trace: the partial trace.
            policy: which of the form's policies to judge by.

        Raises:
            MonitorError: if the template refuses the prompt's turns.
        """
        try:
            if self._form.is_asked_by_template:
                turns = (*prompt.messages, Message(role="assistant", content=trace))
                chat = self._chat(turns, self._suffix)
                return Question(chat.ids, chat.spans[-1])
            said = self._said(prompt, trace)
            said = [text.strip() for text in said] if self._form.trims else said
            text = self._behind_conversation(prompt) if self._form.asks is not None else self._text
            chat = self.encoder.fill(text + self._suffix, [*said, *self._form.policies[policy : policy + 1]])
        except PromptError as error:
            raise MonitorError(f"prompt {prompt.id!r} cannot be put to the guard: {error}") from error
        return Question(chat.ids, chat.spans[len(said) - 1])

    def answer(self, text: str) -> tuple[int, ...]:
        """`text` as token ids of what the model may say next; a control token, where that is all, is one."""
        control = {token.content: token_id for token_id, token in self._tokenizer.added_tokens_decoder.items()}
        return (control[text],) if text in control else self.encoder.behind(self._before, text)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens by which a reply ends: the end of a text, and the known ends of turns."""
        known = {token.content: token_id for token_id, token in self._tokenizer.added_tokens_decoder.items()}
        ends = dict.fromkeys((self._tokenizer.eos_token, *TURN_ENDS))
        return tuple(known[end] for end in ends if end in known)

    def words_around(self) -> tuple[str, str, str] | None:
        """The chat template's words before, between and behind a prompt and a trace; None where it alone does not ask.

        Control tokens are left out, and the names of roles in headers.
        """
        if not self._form.is_asked_by_template or not self._form.replies:
            return None
        turns = [Message(role="user", content=_MARKS[0]), Message(role="assistant", content=_MARKS[1])]
        text = str(self._tokenizer.decode(list(self._chat(turns, "").ids)))
        control = "|".join(re.escape(token.content) for token in self._tokenizer.added_tokens_decoder.values())
        text = re.sub(rf"(?:{control})(?:(?:user|assistant|system|model)\b)?", "\n", text)
        before, _, rest = text.partition(_MARKS[0])
        between, _, behind = rest.partition(_MARKS[1])
        return before, between, behind

    def refuse_unnamed(self, categories: Categories) -> None:
        """Check that the question tells the guard of what a configuration says about its categories.

        Raises:
            ConfigError: the chat template takes no taxonomy of one's own, or calls a category otherwise, or does not
                tell of one that is chosen; the guard would not name it then, and what it stands for would count, or
                not count, in silence.
        """
        own = categories.template_arg
        if own is not None and own in self._form.template_args and not self._takes(own):
            raise ConfigError(f"guard {self.name!r} takes no `{own}` in its chat template")
        if not categories.is_listed or categories.listing is None:
            return
        text = self._sample_text()
        wanted = tuple(map(str, categories.listing.template_args.values())) or categories.chosen
        missing = [each for each in wanted if not re.search(rf"(?<!\w){re.escape(each)}(?!\w)", text)]
        if missing:
            raise ConfigError(
                f"guard {self.name!r} is asked without {missing[0]!r} by its chat template, and names no such category"
            )
        for name, title in categories.names.items():
            said = re.search(rf"(?<!\w){re.escape(name)}: *([^\n.]+)", text)
            if said is not None and said[1] != title and said[1] in categories.names.values():
                raise ConfigError(
                    f"guard {self.name!r} has other categories than its preset: {name} is {said[1]!r} and not {title!r}"
                )

    def _takes(self, template_arg: str) -> bool:
        """Whether the chat template shows the taxonomy that it is handed: one that no template has."""
        name, words = _MARKS
        args = {**self._form.template_args, template_arg: {name: words}}
        text = Asker(self._tokenizer, replace(self._form, template_args=args), self.name)._sample_text()
        return name in text and words in text

    def _sample_text(self) -> str:
        """A question as text."""
        return str(self._tokenizer.decode(list(self.ask(_SAMPLE, "x").ids)))

    def _said(self, prompt: Prompt, trace: str) -> list[str]:
        """The contents that the form's words leave holes for, the trace last."""
        if self._form.asks is not None:
            return [*(message.content for message in prompt.messages), trace]
        return [transcript(prompt), trace]

    @cached_property
    def _text(self) -> str:
        """The form's own text, as `ChatEncoder.fill` takes it."""
        if not self._form.turns:
            return self._with_holes(self._form.text or "")
        turns = [{"role": turn.role, "content": self._with_holes(turn.text)} for turn in self._form.turns]
        rendered = self._apply(turns)
        for turn in turns:
            if turn["content"].strip() not in rendered:
                raise PromptError(f"the chat template leaves out the {turn['role']}'s turn of the question")
        return rendered

    def _behind_conversation(self, prompt: Prompt) -> str:
        """The conversation with holes, and behind it the user's turn that asks; for `ChatEncoder.fill`."""
        roles = tuple(message.role for message in prompt.messages)
        if roles not in self._rendered:
            turns = [{"role": role, "content": hole(place)} for place, role in enumerate((*roles, "assistant"))]
            asks = (self._form.asks or "").replace("{policy}", hole(len(turns)))
            self._rendered[roles] = self._apply([*turns, {"role": "user", "content": asks}])
        return self._rendered[roles]

    def _apply(self, turns: list[dict[str, str]]) -> str:
        """The chat template around turns, up to the model's own."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns,
                    tokenize=False,
                    add_generation_prompt=self._form.replies,
                    **self._form.template_args,
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise PromptError(f"the chat template refuses the turns [{roles}]: {error}") from error

    def _with_holes(self, words: str) -> str:
        special = {"bos": self._tokenizer.bos_token, "eos": self._tokenizer.eos_token}
        filled = {name: str(token or "") for name, token in special.items()}
        filled |= {"prompt": hole(0), "trace": hole(1), "policy": hole(2)}
        return _HOLE.sub(lambda found: filled[found[1]], words)

    def _chat(self, turns: Sequence[Message], suffix: str) -> EncodedChat:
        """Render the turns as they are where the template takes them, else in alternating turns."""
        replies, args = self._form.replies, self._form.template_args
        try:
            return self.encoder.chat(turns, suffix, add_generation_prompt=replies, template_args=args)
        except PromptError:
            return self.encoder.chat(alternating(turns), suffix, add_generation_prompt=replies, template_args=args)

    def _blanks(self) -> str:
        """Blanks that the template puts behind every header but the last, as Llama Guard 3's does.

        Where the question ends in a control token that is followed by blanks earlier on, the verdict follows the same
        blanks; the guard would otherwise spend its first token on them.
        """
        if not self._form.is_asked_by_template or not self._form.replies:
            return ""
        ids = self._chat([Message(role="user", content="x"), Message(role="assistant", content="x")], "").ids
        if ids[-1] not in self._tokenizer.added_tokens_decoder or ids[-1] not in ids[:-1]:
            return ""
        after = str(self._tokenizer.decode(list(ids[ids.index(ids[-1]) + 1 :])))
        return after[: len(after) - len(after.lstrip())]

    def _last_stretch(self, question: Question) -> str:
        """The text between the last control token, or the trace, and the end of a question."""
        control = self._tokenizer.added_tokens_decoder
        last = max((at for at, token_id in enumerate(question.ids) if token_id in control), default=-1)
        return str(self._tokenizer.decode(list(question.ids[max(last + 1, question.trace.stop) :])))


def alternating(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same words in turns that alternate from the user's, as many guards' templates demand.

    System messages open the user turn that follows them, and neighbours of one role become one turn. What the assistant
    said before the user's first turn goes.
    """
    turns: list[Message] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if role == "assistant" and not turns:
            continue
        if turns and turns[-1].role == role:
            turns[-1] = Message(role=role, content=f"{turns[-1].content}\n\n{message.content}")
        else:
            turns.append(Message(role=role, content=message.content))
    return tuple(turns)
