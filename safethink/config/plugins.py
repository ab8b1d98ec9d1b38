"""Plug-ins of other packages, found by their entry points. Whatever fails is named on one line; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeGuard, TypeVar, cast

from safethink.config.yaml_config import did_you_mean
from safethink.errors import ConfigError

Plugin = TypeVar("Plugin")


@dataclass(frozen=True, slots=True)
class PluginKind(Generic[Plugin]):
    """A kind of thing that other packages may bring.

    Attributes:
        noun: what messages call it.
        group: where packages announce it, in `[project.entry-points."GROUP"]` of pyproject.toml.
        fits: whether something is of this kind.
        lack: what something that does not fit is said to be without.
    """

    noun: str
    group: str
    fits: Callable[[object], TypeGuard[Plugin]]
    lack: str

    def make(self, name: str, options: Mapping[str, Any], *given: object) -> Plugin:
        """Build the plug-in that another package calls `name`.

        Args:
            name: of an entry point in `group`; it names a class or function that returns a plug-in.
            options: keyword arguments for it.
            given: what it is handed before them.

        Raises:
            ConfigError: there is none or several of that name, or it does not load, or what it makes is of another
                kind; nothing is passed over.
        """
        entry = self.find(name)
        with self.failing(entry):
            made = cast("Callable[..., object]", entry.load())(*given, **options)
        return self.checked(entry, made)

    def find(self, name: str) -> EntryPoint:
        """The entry point of that name, not loaded yet.

        Raises:
            ConfigError: there is none, or several packages have one.
        """
        known = entry_points(group=self.group)
        found = [entry for entry in known if entry.name == name]
        if not found:
            names = sorted({entry.name for entry in known})
            there_are = f"there are {', '.join(names)}" if names else "no package has any"
            hint = did_you_mean(name, names)
            raise ConfigError(f"no {self.noun} {name!r} among the entry points {self.group!r}: {there_are}{hint}")
        if len({entry.value for entry in found}) > 1:
            packages = ", ".join(entry.value for entry in found)
            raise ConfigError(f"{self.noun} {name!r} is announced by several packages: {packages}")
        return found[0]

    def version(self, name: str) -> str:
        """The package that announces `name`, and its version, as `package==1.0`.

        Raises:
            ConfigError: there is no such entry point, or several packages have one.
        """
        entry = self.find(name)
        return entry.value if entry.dist is None else f"{entry.dist.name}=={entry.dist.version}"

    @contextmanager
    def failing(self, entry: EntryPoint) -> Generator[None, None, None]:
        """Name the entry point in whatever its package raises.

        Raises:
            ConfigError: it raised.
        """
        try:
            yield
        except Exception as error:
            raise ConfigError(
                f"{self.noun} {entry.name!r} ({entry.value}) failed to load: {type(error).__name__}: {error}"
            ) from error

    def checked(self, entry: EntryPoint, made: object) -> Plugin:
        """Return the object that an entry point made, checked to be of this kind.

        Raises:
            ConfigError: it is not.
        """
        if not self.fits(made):
            raise ConfigError(
                f"{self.noun} {entry.name!r} ({entry.value}) made a {type(made).__name__}, which has no {self.lack}"
            )
        return made
