"""World that a reasoner was trained on, read off the card beside its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from safethink.config import WorldConfig
from safethink.errors import ConfigError
from safethink.testbed import CARD_FILE, locate
from safethink.testbed.world import World, WorldKind


@dataclass(frozen=True, slots=True)
class Origin:
    """The world that a reasoner was trained on.

    Attributes:
        seed: fixes its dynamics.
        kind: says what they are about.
    """

    seed: int
    kind: WorldKind

    @property
    def configured_kind(self) -> WorldKind:
        """Value of `world.kind` for it: the reasoner of the `null` world belongs to the models of `planted`."""
        return "planted" if self.kind == "null" else self.kind

    def world(self) -> World:
        """Its dynamics."""
        return World.make(self.seed, self.kind)


class _Card(BaseModel):
    """The fields needed of the card that `safethink-optimize testbed` writes."""

    model_config = ConfigDict(frozen=True)

    world_seed: int
    world_kind: WorldKind = "planted"
    models: dict[str, object]


def origin(path: str) -> Origin | None:
    """The world that the reasoner at `path` was trained on; None for one that is not a testbed's.

    Args:
        path: name of a shipped reasoner, a folder or a hub id.
    """
    folder = Path(locate(path)).resolve()
    card_file = folder.parent / CARD_FILE
    if not card_file.is_file():
        return None
    try:
        card = _Card.model_validate_json(card_file.read_bytes())
    except ValidationError:
        return None  # Somebody else's card.
    if folder.name not in card.models:
        return None
    return Origin(card.world_seed, "null" if folder.name == "reasoner_null" else card.world_kind)


def is_testbed(path: str) -> bool:
    """Whether `path` is a testbed's reasoner: a shipped one, or one trained by `safethink-optimize testbed`."""
    return origin(path) is not None


def require_world(path: str, world: WorldConfig) -> None:
    """Make sure that a testbed's reasoner has the dynamics that `world` asks for.

    Args:
        path: of the reasoner; one that is not a testbed's has no dynamics that could differ.
        world: the configured world.

    Raises:
        ConfigError: it was trained on another one.
    """
    found = origin(path)
    if found is None:
        return
    if world.seed != found.seed:
        raise ConfigError(f"world.seed is {world.seed}, but {path!r} was trained on {found.seed}")
    if world.kind != found.configured_kind:
        raise ConfigError(f"world.kind is {world.kind!r}, but {path!r} was trained on {found.configured_kind!r}")
