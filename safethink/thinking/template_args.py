"""Arguments of a chat template: the switch of its thinking, the day, and what the user says.

A template is a program whose inputs have names of their own. A name that it does not read would be ignored in silence,
so it is refused; and the switch of the thinking is called as the template calls it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import cache
from typing import Final, TypeAlias

from jinja2 import TemplateSyntaxError, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from safethink.config.run import DAY
from safethink.config.yaml_config import did_you_mean
from safethink.errors import ConfigError

TemplateArg: TypeAlias = str | int | float | bool | None
"""Value of an argument, as YAML writes it."""

SWITCHES: Final = ("enable_thinking", "thinking")
"""Names of the switch that turns the thinking on: Qwen3's and most others', DeepSeek-V3.1's and Granite's."""
_GIVEN: Final = frozenset({"messages", "add_generation_prompt", "tools", "documents", "raise_exception"})
"""Parts of a chat, which nobody may say beside it."""
_BUILT_IN: Final = frozenset({"range", "dict", "lipsum", "cycler", "joiner", "namespace"})
"""Functions that Jinja brings along."""
_DIRECTIVES: Final = (*"aAbBcdDeFGgHhIjklmMnpPrRsSTuUVwWxXyYCt", "-d", "-m", "-j", "-H", "-I", "-M", "-S", "-y")
"""Directives of `strftime`."""
_ASKS: Final = frozenset({"defined", "undefined", "default", "d"})
"""Tests and filters by which a template asks whether it was handed an argument."""
_COMMENT: Final = re.compile(r"\{#.*?#\}", re.DOTALL)
_GENERATION: Final = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Marks of transformers around what the assistant said; plain Jinja does not know them."""


def program_of(source: str) -> str:
    """A chat template without its comments, in which anything may be mentioned."""
    return _COMMENT.sub("", source)


@cache
def names_read(source: str) -> frozenset[str]:
    """Names of the arguments that a chat template reads; none where the source is no template.

    A name that the template sets itself is none of them, unless it asks first whether it was handed one.
    """
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        program = environment.parse(_GENERATION.sub("", source))
    except TemplateSyntaxError:
        return frozenset()
    set_here = {name.name for name in program.find_all(nodes.Name) if name.ctx != "load"}
    asked = {
        each.node.name
        for each in program.find_all((nodes.Test, nodes.Filter))
        if each.name in _ASKS and isinstance(each.node, nodes.Name)
    }
    names = find_undeclared_variables(program) - (set_here - asked) - _GIVEN - _BUILT_IN
    # The special tokens are the tokenizer's.
    return frozenset(name for name in names if not name.endswith("_token"))


def rendering_args(source: str, said: Mapping[str, TemplateArg], thinks: bool) -> dict[str, object]:
    """All arguments that a chat template is rendered with.

    Args:
        source: of the template.
        said: what the user says, which goes before the switch.
        thinks: the position of the switch of the thinking, where the template has one.

    Raises:
        ConfigError: the template reads no argument by a name that the user says, or the day is none.
    """
    names = names_read(source)
    for name in said:
        if name not in names:
            known = f"it reads {', '.join(sorted(names))}" if names else "it reads none"
            raise ConfigError(
                f"reasoner.template_args: the chat template reads no {name!r}{did_you_mean(name, names)}; {known}"
            )
    args: dict[str, object] = {switch: thinks for switch in SWITCHES if switch in names}
    args |= {name: value for name, value in said.items() if name != DAY}
    return args | ({"chat_template": _on(said[DAY], source)} if DAY in said else {})


def dated(source: str, said: Mapping[str, TemplateArg], today: date) -> dict[str, TemplateArg]:
    """The user's arguments, and the day where the template writes it down: a prompt must not change overnight."""
    return ({DAY: today.isoformat()} if DAY in names_read(source) else {}) | dict(said)


def _on(day: TemplateArg, source: str) -> str:
    """A template that asks for the current day as it is on `day`.

    Transformers hands no functions to templates, so the clock is a macro in front that fills in what a format asks.
    """
    try:
        clock = date.fromisoformat(str(day))
    except ValueError as error:
        raise ConfigError(f"reasoner.template_args: {DAY} is {day!r}, and not a date such as 2026-11-29") from error
    asked = "".join(f" | replace('%{each}', '{clock.strftime(f'%{each}')}')" for each in _DIRECTIVES)
    # What follows a block loses its first line break, what follows an expression does not.
    return f"{{% macro {DAY}(format) -%}}{{{{ format{asked} }}}}{{%- endmacro %}}{{{{ '' }}}}{source}"
