"""An engine that works in waves, as one that rows may enter while others are under way."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from safethink.defenses.effects import Extension
from safethink.engines import ContinuousEngine, Engine, ExtendRequest


class Waves:
    """Continues all rows that were submitted together, and hands them back when the last one has stopped."""

    def __init__(self, engine: Engine) -> None:
        """Continue with `engine`."""
        self._engine = engine
        self._submitted: list[ExtendRequest] = []

    def submit(self, requests: Sequence[ExtendRequest]) -> None:
        """Put rows into the next wave."""
        self._submitted += requests

    def collect(self, rows: Collection[int], share: float = 1.0) -> dict[int, Extension]:
        """Continue the rows of this wave to the last one, whatever `share`; return what was produced, by row."""
        wave, self._submitted = self._submitted, []
        return {request.row: extension for request, extension in zip(wave, self._engine.extend(wave), strict=True)}


def continuous(engine: Engine) -> ContinuousEngine:
    """The engine itself where rows may enter it at any time, else in waves."""
    return engine if isinstance(engine, ContinuousEngine) else Waves(engine)
