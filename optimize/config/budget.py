"""Budget of a search as it is written on the command line: a time, or a number of forwarded tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from safethink.errors import ConfigError

_TIME: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_TOKENS: Final = re.compile(r"(\d+)(k?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """A time that a search may take; its text is read as the same time again.

    Attributes:
        seconds: how long, at least 1.
    """

    seconds: int

    def __str__(self) -> str:
        return "".join(f"{count}{unit}" for count, unit in _parts(self.seconds))


@dataclass(frozen=True, slots=True)
class TokenBudget:
    """A number of tokens that a search may forward; its text is read as the same number again.

    Attributes:
        tokens: how many, at least 1.
    """

    tokens: int

    def __str__(self) -> str:
        return str(self.tokens)


Budget: TypeAlias = TimeBudget | TokenBudget


def parse_budget(text: str) -> Budget:
    """Read a budget: `90s`, `20m` or `1h30m`, each unit once and the longest first; `200000` or `200k` tokens.

    Raises:
        ConfigError: it is neither, or nothing at all, as `0m` is.
    """
    if tokens := _TOKENS.fullmatch(text):
        count = int(tokens[1]) * (1000 if tokens[2] else 1)
        if count:
            return TokenBudget(count)
    elif time := _TIME.fullmatch(text):
        hours, minutes, seconds = (int(part or 0) for part in time.groups())
        if total := (hours * 60 + minutes) * 60 + seconds:
            return TimeBudget(total)
    raise ConfigError(
        f"--budget: {text!r} is no budget; write a time such as 90s, 20m or 1h30m, or forwarded tokens such as 200k"
    )


def in_words(seconds: int) -> str:
    """A time for a reader: `1 h 30 min`."""
    names = {"h": "h", "m": "min", "s": "s"}
    return " ".join(f"{count} {names[unit]}" for count, unit in _parts(seconds)) or "0 s"


def _parts(seconds: int) -> list[tuple[int, str]]:
    """Hours, minutes and seconds, those that are not 0."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return [(count, unit) for count, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if count]
