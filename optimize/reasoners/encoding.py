# pyright: standard
"""Rows as token ids: the prompt as the guarded reasoner is opened, the completion as a defense writes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerBase

from optimize.reasoners.rows import Row
from safethink.config import ThoughtConfig
from safethink.errors import ConfigError
from safethink.prompts import Prompt
from safethink.thinking.format import Thought
from safethink.thinking.opening import open_prompt

TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)
"""ChatML without a default system prompt; the thinking is opened in ordinary tokens."""
IGNORED: Final = -100
"""Label of a token that is not learned."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a row.

    Attributes:
        prompt: up to the open thinking.
        completion: thinking, closing tag, answer and the end of the turn.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)

    def as_row(self) -> dict[str, list[int]]:
        """The row as trl takes it: the loss is on the completion alone."""
        return {
            "input_ids": [*self.prompt, *self.completion],
            "labels": [IGNORED] * len(self.prompt) + list(self.completion),
        }


def reasoner_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Give a base's tokenizer the reasoner's chat template, in place.

    Raises:
        ConfigError: its turns are not those of ChatML.
    """
    if TURN_START not in tokenizer.get_vocab():
        raise ConfigError(f"base.path: its tokenizer has no token {TURN_START}, which the reasoner's turns begin with")
    if tokenizer.eos_token != TURN_END:
        raise ConfigError(f"base.path: its turns end with {tokenizer.eos_token}, and the reasoner's with {TURN_END}")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encoded(rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, model_type: str | None) -> list[Example]:
    """Encode rows with the tokenizer of a reasoner, see `reasoner_tokenizer`."""
    thought = Thought.today(ThoughtConfig(), tokenizer, model_type=model_type)
    family = thought.family
    end_id = tokenizer.get_vocab()[str(tokenizer.eos_token)]
    examples: list[Example] = []
    for row in rows:
        trace = "".join(step + family.step_delimiter[0] for step in row.steps)
        text = trace + family.close_tag + family.answer_break + row.answer
        prompt = open_prompt(thought, Prompt.from_text(row.request, row.id))
        examples.append(Example(prompt, (*thought.encoder.text(text), end_id)))
    return examples
