"""The cells of an ablation: one for each method, value of every axis, and seed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from optimize.ablation.config import LENGTH, AblationConfig, MeasureConfig, MethodVariant
from optimize.config import SearchConfig, refuse_devices
from safethink.config import yaml_config
from safethink.errors import ConfigError
from safethink.files import json_hash


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Coordinates of a cell in the grid, its method aside: a value on every axis."""

    values: tuple[tuple[str, Any], ...]

    def __getitem__(self, axis: str) -> Any:
        return dict(self.values)[axis]

    @property
    def label(self) -> str:
        """The values with the short names of their axes: `length=4, by=judge`."""
        return ", ".join(self.parts)

    @property
    def parts(self) -> tuple[str, ...]:
        """The same, one by one."""
        return tuple(f"{axis.rpartition('.')[2]}={shown(value)}" for axis, value in self.values)


@dataclass(frozen=True, slots=True)
class Cell:
    """One search, or one prefix, and how it is measured.

    Attributes:
        name: of its folder too.
        method: name of the method.
        variant: the method.
        place: where it stands on the axes.
        seed: of the search.
        config: the base with everything that the cell changes.
        measure: what it is measured on; None for the choice of its prefix.
        shorter: the cell from whose artifact its search starts; None for a start of its own.
    """

    name: str
    method: str
    variant: MethodVariant
    place: Coordinates
    seed: int
    config: SearchConfig
    measure: MeasureConfig | None
    shorter: Cell | None = None

    @property
    def searches(self) -> bool:
        """Whether a search runs."""
        return self.variant.learn and not self.variant.phrases

    @property
    def needs_contexts(self) -> bool:
        """Whether anything is learned or chosen."""
        return self.variant.learn

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides its result; where the contexts lie on this machine does not."""
        config = self.config.replace(contexts=self.config.contexts.replace(path=None))
        return {
            "base": config.model_dump(mode="json"),
            "method": self.variant.model_dump(mode="json", include={"learn", "phrases"}),
            "validation": self.measure and self.measure.model_dump(mode="json"),
            "shorter": self.shorter.fingerprint if self.shorter else None,
        }

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides its result."""
        return settings_hash(self.settings)


def settings_hash(settings: Mapping[str, object]) -> str:
    """Hash of values in their order; their keys may be renamed."""
    return json_hash([*settings.values()])


def expand(config: AblationConfig) -> tuple[Cell, ...]:
    """All cells; one that starts from another stands behind it.

    Raises:
        ConfigError: a key or a value that does not fit, or two values that look alike in a name; it is named.
    """
    cells: dict[str, Cell] = {}
    for method, variant in config.methods.items():
        own = yaml_config.override(config.base, variant.set, f"methods.{method}.set")
        for place, seed in product(_places(config), config.seeds):
            cell = _cell(config, method, own, place, seed, cells)
            if cell.name in cells:
                raise ConfigError(f"axes: two cells would be called {cell.name!r}")
            cells[cell.name] = cell
    return tuple(cells.values())


def shown(value: object) -> str:
    """A value as it stands in names and labels."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _places(config: AblationConfig) -> Iterator[Coordinates]:
    """Every combination of values; short lengths first, since longer ones may start from them."""
    axes = {key: sorted(values, key=_as_length) if key == LENGTH else values for key, values in config.axes.items()}
    for values in product(*axes.values()):
        yield Coordinates(tuple(zip(axes, values, strict=True)))


def _as_length(value: object) -> int:
    """Sort key of a length; a value that is none comes first, to be named as a mistake."""
    return value if isinstance(value, int) else 0


def _cell(
    config: AblationConfig, method: str, own: SearchConfig, place: Coordinates, seed: int, earlier: Mapping[str, Cell]
) -> Cell:
    variant = config.methods[method]
    changes = dict(place.values) | {"seed": seed}
    resolved = yaml_config.override(own, changes, f"axes of method {method!r}")
    refuse_devices(resolved)
    return Cell(
        name=_name(method, place, seed),
        method=method,
        variant=variant,
        place=place,
        seed=seed,
        config=resolved,
        measure=config.validation,
        shorter=_shorter(config, method, place, seed, earlier) if variant.warm_start else None,
    )


def _shorter(
    config: AblationConfig, method: str, place: Coordinates, seed: int, earlier: Mapping[str, Cell]
) -> Cell | None:
    """The cell of the next shorter length that is otherwise the same."""
    lengths = [length for length in config.axes[LENGTH] if length < place[LENGTH]]
    if not lengths:
        return None
    values = tuple((axis, max(lengths) if axis == LENGTH else value) for axis, value in place.values)
    return earlier[_name(method, Coordinates(values), seed)]


def _name(method: str, place: Coordinates, seed: int) -> str:
    parts = [method, *place.parts, f"seed={seed}"]
    return "-".join(re.sub(r"[^A-Za-z0-9._=-]+", "_", part) for part in parts)
