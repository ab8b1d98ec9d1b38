"""The choice of the family that a reasoner belongs to.

It is told from the reasoner's own tokenizer, chat template and configuration, never from the name of its folder. Token
ids are the tokenizer's in every case: the same tags have other ids in other vocabularies.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from safethink.config.family import DeclaredTags, Family, Traits
from safethink.config.family_table import DECLARED, FAMILIES, PLAIN
from safethink.errors import ConfigError

AUTO: Final = "auto"
"""Stands for the family that fits the reasoner."""
_BY_NAME: Final = {family.name: family for family in (*FAMILIES, DECLARED, PLAIN)}


def named(name: str) -> Family:
    """The family called `name`.

    Raises:
        ConfigError: there is none; the known ones are listed.
    """
    if name not in _BY_NAME:
        raise ConfigError(f"no family of reasoners is called {name!r}; known are {AUTO}, {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def choose(traits: Traits, otherwise: Family | None = None) -> Family:
    """The family that a reasoner belongs to: by the tags that its tokenizer declares, else by its signs.

    Args:
        traits: what it shows.
        otherwise: taken where it shows nothing; None for no family.

    Raises:
        ConfigError: several have the very signs that it shows, so that only its user can tell; or it shows none.
    """
    shown = fitting(traits)
    if traits.declared is not None:
        agreeing = (family for family in shown if family.agrees(traits.declared))
        return next(agreeing, None) or _declared(traits.declared)
    if not shown and otherwise is not None:
        return otherwise
    if not shown:
        raise ConfigError(
            f"this reasoner{_called(traits)} does not show how it thinks before it answers: its tokenizer declares no "
            "response_template with reasoning, its chat template is of no known family, and neither that nor its "
            "vocabulary has <think> and </think>; set thought.family, or thought.open_tag and thought.close_tag, and "
            "for a model that does not reason thought.family: plain"
        )
    first = shown[0]
    if first.is_ambiguous:
        alike = [family.name for family in shown if family.signs == first.signs]
        raise ConfigError(
            f"the chat template does not say how this reasoner{_called(traits)} thinks: "
            f"set thought.family to {' or '.join(alike)}, or to plain if it does not"
        )
    return first


def fitting(traits: Traits) -> list[Family]:
    """The families that a reasoner shows the signs of, the first of which is its own."""
    return [family for family in FAMILIES if family.fits(traits)]


def _declared(tags: DeclaredTags) -> Family:
    """The family of nobody else's tags."""
    open_tag, close_tag = tags.open.rstrip(), tags.close.strip()
    return replace(DECLARED, open_tag=open_tag, open_break=tags.open[len(open_tag) :], close_tag=close_tag)


def _called(traits: Traits) -> str:
    return "" if traits.model_type is None else f" ({traits.model_type})"
