"""Prompts opened as token ids: the chat template rendered once, up to the open thinking."""

from __future__ import annotations

import re
from functools import partial
from typing import Final

from safethink.config.families import FAMILIES
from safethink.config.family import Family
from safethink.errors import ConfigError, PromptError, SafeThinkError
from safethink.prompts import Message, Prompt, is_unicode
from safethink.thinking.format import Thought
from safethink.tokens import Tokens

_OPENING: Final = re.compile(r"<[|\w:]*(?<!END_)THINK\w*[|\w:]*>\s*$", re.IGNORECASE)
"""A tag at the end of a generation prompt that opens a thinking of no known family."""


def open_prompt(thought: Thought, prompt: Prompt) -> tuple[int, ...]:
    """Render the chat template, once, up to the open thinking.

    The messages are encoded as text: a control string in them stays text. Where the template leaves it to the model to
    open the thinking, the opening tag is appended. `prompt.prefill` is not part of it: see `prefill_tokens`.

    Raises:
        PromptError: if the prompt is empty or no Unicode text, the template refuses it, it turns the thinking off, or
            it leaves no room in the context window.
    """
    if not prompt.text.strip():
        raise PromptError(f"prompt {prompt.id!r} is empty")
    if not all(map(is_unicode, (prompt.prefill, *(message.content for message in prompt.messages)))):
        raise PromptError(f"prompt {prompt.id!r} is not Unicode text: it has half of a character")
    family = thought.family
    messages = _first_turn(thought, prompt)
    closed = PromptError(f"prompt {prompt.id!r} turns the thinking off: the chat template closes it before it begins")
    # A spelled opener may share a token with the break behind it, and with the text before it.
    ids, _ = thought.rendered(messages, partial(_opener, family, closed), (family.open_tag, family.close_tag))
    num_tokens = len(ids) + len(prefill_tokens(thought, prompt))
    if thought.context_tokens is not None and num_tokens + thought.reserve_tokens > thought.context_tokens:
        raise PromptError(
            f"prompt {prompt.id!r} has {num_tokens} tokens; with {thought.reserve_tokens} kept free for a step, "
            f"that exceeds the reasoner's context window of {thought.context_tokens}"
        )
    return ids


def _opener(family: Family, closed: SafeThinkError, tail: str) -> str:
    """The rest of the opener, where the text behind the last message does not open the thinking already.

    Raises:
        SafeThinkError: `closed`, where that text closes it.
    """
    if family.is_open(tail):
        return ""
    if family.close_tag and family.close_tag in tail:
        raise closed
    opener = family.open_lead + family.open_tag + family.open_break
    # A header that opens a message may have been begun: `<|start|>assistant`.
    begun = next(length for length in range(len(opener), -1, -1) if tail.endswith(opener[:length]))
    return opener[begun:]


def refuse_contradiction(thought: Thought) -> None:
    """Refuse a chat template that does other than the family says, before anything is run.

    Raises:
        ConfigError: it closes the thinking at once; or the family does not think, and the reasoner does whatever it is
            told.
    """
    said = ", ".join(thought.template_args) or "what it needs"
    closed = ConfigError(
        f"the chat template closes the thinking before it begins ({thought.family.close_tag}): look at {said} in "
        "reasoner.template_args, or set thought.family: plain"
    )
    try:
        _, tail = thought.rendered((Message(role="user", content="?"),), partial(_opener, thought.family, closed))
    except PromptError:
        # It wants other turns than a question; what it makes of those is seen with each prompt.
        return
    if thought.family.thinks:
        return
    opening = next((family.open_tag for family in FAMILIES if family.open_tag and family.is_open(tail)), None)
    opening = opening or next(iter(_OPENING.findall(tail)), None)
    if opening is not None:
        raise ConfigError(
            f"thought.family is {thought.family.name}, and the chat template opens the thinking ({opening}) with no "
            "switch to turn it off: leave thought.family out"
        )
    if (reasoner := thought.unswitched) is not None:
        raise ConfigError(
            f"thought.family is {thought.family.name}, and the chat template is that of {reasoner.name}, which thinks "
            "whatever it is told: leave thought.family out"
        )


def prefill_tokens(thought: Thought, prompt: Prompt) -> Tokens:
    """The prompt's prefill of the trace: the attacker's words, which the monitor reads like sampled ones.

    Their ids are those that the reasoner itself would have written, had it gone on behind them.
    """
    return Tokens.sampled(thought.encoder.begun(prompt.prefill))


def _first_turn(thought: Thought, prompt: Prompt) -> tuple[Message, ...]:
    """The prompt's messages, with the first question of a reasoner that thinks over several turns."""
    if not thought.family.stage_turns:
        return prompt.messages
    *before, last = prompt.messages
    return (*before, last.replace(content=last.content + thought.family.stage_turns[0]))
