# pyright: standard
"""Tags of the thinking as a tokenizer declares them: the `response_template` of its `tokenizer_config.json`.

transformers (5.13 and later) parses what a model says by it, and so do servers. Its tags may be regular expressions.
One that is a fixed text but for blanks is that text; any other cannot be written for the reasoner, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from transformers import PreTrainedTokenizerBase

from safethink.config.family import DeclaredTags
from safethink.errors import ConfigError

FIELDS: Final = ("reasoning_content", "thinking", "reasoning")
"""Names that templates give to the field with the thinking."""
_BLANKS: Final = re.compile(r"\(\?:\\n\)[?*]|(?:\\s|\\n|\n| )[*+?]")
_ESCAPED: Final = re.compile(r"\\(.)")
_LOOK_AHEAD: Final = re.compile(r"\(\?=.*\)", re.DOTALL)


def declared_tags(tokenizer: PreTrainedTokenizerBase) -> DeclaredTags | None:
    """The tags that a tokenizer declares; None where it declares nothing, or no thinking.

    Raises:
        ConfigError: what it declares is no response template, or a tag of it is no fixed text; names it.
    """
    template = getattr(tokenizer, "response_template", None)
    if template is None:
        return None
    if not isinstance(template, Mapping) or not isinstance(template.get("fields"), Mapping):
        raise _broken("it has no `fields`")
    field = next((template["fields"][name] for name in FIELDS if name in template["fields"]), None)
    if field is None:
        return None
    if not isinstance(field, Mapping):
        raise _broken("the field of its thinking is no mapping")
    close = _text(field, "close")
    if not close.strip():
        raise _broken("nothing closes its thinking")
    opened = _text(field, "open")
    return DeclaredTags(opened or _anchored(template, close), close)


def _text(field: Mapping[str, object], key: str) -> str:
    """The fixed text behind `key` or `key_pattern`; empty where there is none, or one that takes up no room."""
    literal, pattern = field.get(key), field.get(f"{key}_pattern")
    if literal is not None:
        first = literal[0] if isinstance(literal, list) and literal else literal
        if not isinstance(first, str):
            raise _broken(f"its {key!r} is no text")
        return first
    if pattern is None:
        return ""
    if not isinstance(pattern, str):
        raise _broken(f"its '{key}_pattern' is no text")
    return _matched(key, pattern)


def _matched(key: str, pattern: str) -> str:
    """The one text, blanks left aside, that a regular expression matches."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise _broken(f"its '{key}_pattern' {pattern!r} is no regular expression ({error})") from error
    text = _ESCAPED.sub(r"\1", _BLANKS.sub("", _LOOK_AHEAD.sub("", pattern).removesuffix("|$")))
    if text and not compiled.fullmatch(text):
        raise _broken(f"its '{key}_pattern' {pattern!r} is no fixed text")
    return text


def _anchored(template: Mapping[str, object], close: str) -> str:
    """The opening tag that the generation prompt ends with, where the declaration leaves it to that: `<think>`."""
    mirrored = close.strip().replace("/", "", 1)
    anchor = str(template.get("start_anchor") or template.get("start_anchor_pattern") or "")
    return mirrored if mirrored != close.strip() and mirrored in _ESCAPED.sub(r"\1", anchor) else ""


def _broken(why: str) -> ConfigError:
    return ConfigError(
        f"the response_template that the tokenizer declares cannot be used: {why}; "
        "set thought.family, or thought.open_tag and thought.close_tag"
    )
