# pyright: standard
"""The conversation so far as a model's token ids, in the form in which the model was trained to judge it.

Whatever prompt and trace contain, control tokens come from the form alone. Where a form has no control tokens around a
turn but plain words, a trace may spell those words too; nothing can tell them apart then.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from transformers import PreTrainedTokenizerBase

from safethink.errors import ConfigError, MonitorError, PromptError
from safethink.monitors.function import transcript
from safethink.monitors.guards.presets import Form
from safethink.prompts import Message, Prompt
from safethink.thinking.chat import ChatEncoder, EncodedChat, hole

_HOLE: Final = re.compile(r"\{(prompt|trace|policy|bos|eos)\}")
_SAMPLE: Final = Prompt.from_text("x")


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
        encoder: encodes the tokenizer's text.
        num_policies: how many questions there are about one conversation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, form: Form) -> None:
        """Try the form on a sample.

        Raises:
            ConfigError: the tokenizer has no chat template where one is needed, or one that leaves a turn out, or does
                not know the form's control tokens.
        """
        name = tokenizer.name_or_path
        if form.text is None and not tokenizer.chat_template:
            raise ConfigError(f"guard {name!r} has no chat template")
        known = {token.content for token in tokenizer.added_tokens_decoder.values()}
        unknown = [token for token in form.control if token not in known]
        if unknown:
            raise ConfigError(f"guard {name!r} is asked with {unknown[0]!r}, which its tokenizer does not know")
        self.encoder = ChatEncoder(tokenizer)
        self.num_policies = max(1, len(form.policies))
        self._tokenizer, self._form = tokenizer, form
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
            if self._form.text is None:
                turns = (*prompt.messages, Message(role="assistant", content=trace))
                chat = self._chat(turns, self._suffix)
                return Question(chat.ids, chat.spans[-1])
            policies = self._form.policies[policy : policy + 1]
            said = [transcript(prompt), trace]
            said = [text.strip() for text in said] if self._form.trims else said
            chat = self.encoder.fill(self._text + self._suffix, [*said, *policies])
        except PromptError as error:
            raise MonitorError(f"prompt {prompt.id!r} cannot be put to the guard: {error}") from error
        return Question(chat.ids, chat.spans[1])

    def answer(self, text: str) -> tuple[int, ...]:
        """`text` as token ids of what the model may say next."""
        return self.encoder.behind(self._before, text)

    @cached_property
    def _text(self) -> str:
        """The form's own text, as `ChatEncoder.fill` takes it."""
        special = {"bos": self._tokenizer.bos_token, "eos": self._tokenizer.eos_token}
        filled = {name: str(token or "") for name, token in special.items()}
        filled |= {"prompt": hole(0), "trace": hole(1), "policy": hole(2)}
        return _HOLE.sub(lambda found: filled[found[1]], self._form.text or "")

    def _chat(self, turns: Sequence[Message], suffix: str) -> EncodedChat:
        """Render the turns as they are where the template takes them, else in alternating turns."""
        try:
            return self.encoder.chat(turns, suffix, add_generation_prompt=self._form.replies)
        except PromptError:
            return self.encoder.chat(alternating(turns), suffix, add_generation_prompt=self._form.replies)

    def _blanks(self) -> str:
        """Blanks that the template puts behind every header but the last, as Llama Guard 3's does.

        Where the question ends in a control token that is followed by blanks earlier on, the verdict follows the same
        blanks; the guard would otherwise spend its first token on them.
        """
        if self._form.text is not None or not self._form.replies:
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
