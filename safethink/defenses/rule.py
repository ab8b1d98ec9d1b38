"""A defense as it runs: what begins it on a row, what it is called, and what it needs of whoever runs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeGuard, TypeVar, cast

from safethink.config import EntryPointDefenseConfig
from safethink.config.plugins import PluginKind
from safethink.defenses.effects import Accept, Answer, Defense, Extend, Look, Score, Task, Verdict, Weigh
from safethink.errors import ConfigError, DefenseError, SafeThinkError

Begin: TypeAlias = Callable[[Task], Defense]
"""Starts a defense on one row: a generator function over the effects of `effects.py`."""

Declared = TypeVar("Declared", bound=Callable[..., Defense])


@dataclass(frozen=True, slots=True)
class Needs:
    """Requirements of a defense on its runner; building a run that lacks one is refused.

    It decorates a generator function, or stands as the attribute `needs` of a callable. A defense that says nothing is
    taken to score and to inject, but not to look at single tokens.

    Attributes:
        scores: whether it asks for scores, so that there must be a monitor.
        prefix: whether it injects the portfolio; `Task.prefixes` is empty where not.
        token_level: whether it asks for `Look` or `Weigh`, which only some engines offer.
        threshold: below which score a step violates, in [-1, 1]; evaluations find their contexts there, and learning a
            prefix needs one. None where no single score decides.
    """

    scores: bool = True
    prefix: bool = True
    token_level: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not (self.scores and -1 <= self.threshold <= 1):
            raise ValueError(f"a threshold is a score in [-1, 1] and needs scores, not {self.threshold!r}")

    def __call__(self, begin: Declared) -> Declared:
        """Say it of a generator function, which stays one: its attribute `needs` is set."""
        cast("Any", begin).needs = self
        return begin


@dataclass(frozen=True, slots=True)
class Rule:
    """A defense as `defenses.build` makes it, held to what it needs and ready to begin on any number of rows.

    Attributes:
        name: what messages and reports call it.
        begin: starts it on one row; nothing happens before its first effect is asked for.
        needs: what it needs.
    """

    name: str
    begin: Begin
    needs: Needs

    def __call__(self, task: Task) -> Defense:
        """Start it on one row."""
        return self.begin(task)


def of_callable(begin: Begin) -> Rule:
    """A rule from any callable `(task) -> Defense`; what it needs stands in its attribute `needs`, if anywhere.

    Raises:
        ConfigError: it is not called with a task alone, or its `needs` are none.
    """
    return _holding(_name_of(begin), begin, _needs_of(begin))


def of_entry_point(config: EntryPointDefenseConfig) -> Rule:
    """The rule that another package announces.

    An entry point names a class, which is made with the options and whose instances are called with a task; or a
    generator function, which is called with a task and the options.

    Raises:
        ConfigError: there is no such entry point, it does not load, or it is no defense.
    """
    entry = PLUGINS.find(config.name)
    with PLUGINS.failing(entry):
        loaded = entry.load()
        begin = loaded(**config.options) if isinstance(loaded, type) else loaded
    begin = PLUGINS.checked(entry, begin)
    with PLUGINS.failing(entry):
        needs = _needs_of(begin)
        if config.options and not isinstance(loaded, type):
            inspect.signature(begin).bind(Task(), **config.options)
            begin = partial(begin, **config.options)
        return _holding(config.name, begin, needs)


def _is_defense(found: object) -> TypeGuard[Callable[..., Defense]]:
    return callable(found)


PLUGINS = PluginKind("defense", "safethink.defenses", _is_defense, "`__call__` that takes a task")
"""Defenses of other packages."""


def _name_of(begin: Callable[..., Any]) -> str:
    return getattr(begin, "__name__", type(begin).__name__)


def _needs_of(begin: Callable[..., Any]) -> Needs:
    """The declared needs of a callable, or the defaults.

    Raises:
        ConfigError: it says something else.
    """
    needs: object = getattr(begin, "needs", Needs())
    if not isinstance(needs, Needs):
        raise ConfigError(f"defense {_name_of(begin)!r} has `needs` that are no Needs, but a {type(needs).__name__}")
    return needs


def _holding(name: str, begin: Callable[..., Defense], needs: Needs) -> Rule:
    """The rule that runs somebody else's defense and holds it to what it declared.

    Raises:
        ConfigError: it is not called with a task alone.
    """
    try:
        inspect.signature(begin).bind(Task())
    except TypeError as error:
        raise ConfigError(f"defense {name!r} is not called with a task alone: {error}") from error
    return Rule(name, partial(_held, name, begin, needs), needs)


def _held(name: str, begin: Begin, needs: Needs, task: Task) -> Defense:
    """Run somebody else's defense, and hold it to what it declared.

    Raises:
        DefenseError: it raises, asks for what it did not declare or for what is no effect, or returns no verdict.
    """
    running = cast("object", begin(task))
    if not isinstance(running, Generator):
        raise DefenseError(f"defense {name!r} gave a {type(running).__name__}, and a defense is a generator")
    defense = cast("Defense", running)
    answer: Answer = None
    try:
        while True:
            try:
                effect = defense.send(answer)
            except StopIteration as stop:
                return _checked(name, stop.value)
            except SafeThinkError:
                raise
            # Whatever another's code raises must stop the run with the defense named.
            except Exception as error:
                raise DefenseError(f"defense {name!r} failed: {type(error).__name__}: {error}") from error
            refuse_undeclared(name, needs, effect)
            answer = yield effect
    finally:
        defense.close()


def refuse_undeclared(name: str, needs: Needs, effect: object) -> None:
    """Refuse an effect that a defense did not say it needs.

    Raises:
        DefenseError: the defense and the effect are named.
    """
    kind = type(effect).__name__
    if isinstance(effect, Score) and not needs.scores:
        raise DefenseError(f"defense {name!r} asks for a {kind} and did not declare it: Needs(scores=True)")
    if isinstance(effect, Look | Weigh) and not needs.token_level:
        raise DefenseError(f"defense {name!r} asks for a {kind} and did not declare it: Needs(token_level=True)")
    if not isinstance(effect, Extend | Score | Accept | Look | Weigh):
        raise DefenseError(f"defense {name!r} yields a {kind}, which is no effect")


def _checked(name: str, verdict: object) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise DefenseError(f"defense {name!r} returned a {type(verdict).__name__}, which is no Verdict")
    return verdict
