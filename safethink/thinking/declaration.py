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
_OPTIONAL: Final = re.compile(r"\(\?=.*\)|\(\?:\\n\)[?*]|(?:\\s|\\n|\n| )[*+?]", re.DOTALL)
"""Parts of an expression that take up no room in a fixed text: a look ahead, blanks that may be there."""
_BREAKS: Final = {"n": "\n", "t": "\t", "r": "\r"}
_META: Final = frozenset(".^$*+?{}[]()|")


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
    opened = _text(field, "open")
    close = _text(field, "close", mirror=opened.strip().replace("<", "</", 1))
    if not close.strip():
        raise _broken("nothing closes its thinking")
    return DeclaredTags(opened or _anchored(template, close), close)


def _text(field: Mapping[str, object], key: str, mirror: str = "") -> str:
    """The fixed text behind `key` or `key_pattern`; empty where there is none, or one that takes up no room.

    Args:
        field: of the declaration.
        key: `open` or `close`.
        mirror: which of several texts to take.
    """
    literal, pattern = field.get(key), field.get(f"{key}_pattern")
    if isinstance(literal, list):
        if len(literal) > 1 and mirror not in literal:
            raise _broken(f"its {key!r} is any of several texts")
        literal = mirror if mirror in literal else literal[0] if literal else None
    if literal is not None and not isinstance(literal, str):
        raise _broken(f"its {key!r} is no text")
    if isinstance(literal, str) or pattern is None:
        return literal or ""
    if not isinstance(pattern, str):
        raise _broken(f"its '{key}_pattern' is no text")
    return _matched(key, pattern)


def _matched(key: str, pattern: str) -> str:
    """The one text, blanks left aside, that a regular expression matches."""
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise _broken(f"its '{key}_pattern' {pattern!r} is no regular expression ({error})") from error
    text = _unescaped(_OPTIONAL.sub("", pattern.removeprefix("^").removesuffix("|$")))
    if text is None or (text and not compiled.fullmatch(text)):
        raise _broken(f"its '{key}_pattern' {pattern!r} is no fixed text")
    return text


def _unescaped(pattern: str) -> str | None:
    """The text that a regular expression spells; None where it is more than a text."""
    out, rest = "", iter(pattern)
    for char in rest:
        if char == "\\":
            char = next(rest)
            if char.isalnum() and char not in _BREAKS:
                return None
            out += _BREAKS.get(char, char)
        elif char in _META:
            return None
        else:
            out += char
    return out


def _anchored(template: Mapping[str, object], close: str) -> str:
    """The opening tag that the generation prompt ends with, where the declaration leaves it to that: `<think>`."""
    mirrored = close.strip().replace("/", "", 1)
    anchor = str(template.get("start_anchor") or template.get("start_anchor_pattern") or "").replace("\\", "")
    return mirrored if mirrored != close.strip() and mirrored in anchor else ""


def _broken(why: str) -> ConfigError:
    return ConfigError(
        f"the response_template that the tokenizer declares cannot be used: {why}; "
        "set thought.family, or thought.open_tag and thought.close_tag"
    )
