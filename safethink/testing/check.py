"""One property of a plug-in, as a test runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class Check:
    """A property that a plug-in must have.

    Attributes:
        name: the property, as a sentence with underscores.
        run: raises `AssertionError` where it is without it.
    """

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Raise `AssertionError` where the plug-in is without the property."""
        self.run()

    def __str__(self) -> str:
        """Test id for pytest, with `ids=str`."""
        return self.name


def checks_of(subject: Subject, *properties: Callable[[Subject], None]) -> tuple[Check, ...]:
    """One check per property, named after its function."""
    return tuple(Check(each.__name__, partial(each, subject)) for each in properties)


def ensure(holds: bool, fault: str) -> None:
    """Raise `AssertionError` with the fault unless something holds; unlike `assert` in optimised code too."""
    if not holds:
        raise AssertionError(fault)
