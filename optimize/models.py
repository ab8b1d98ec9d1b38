"""The models of one process: loaded when first asked for, and kept for as long as the next task asks for the same."""

from __future__ import annotations

from optimize import setup
from optimize.config import SearchConfig
from optimize.setup import Setup
from safethink.config import MonitorConfig, ReasonerConfig
from safethink.models import loading
from safethink.models.loading import CausalLM
from safethink.monitors import Monitor
from safethink.monitors.build import build


class Models:
    """At most one reasoner and one monitor at a time: two may not fit."""

    def __init__(self) -> None:
        self._reasoner: tuple[ReasonerConfig, CausalLM] | None = None
        self._monitor: tuple[MonitorConfig, Monitor] | None = None

    def setup(self, config: SearchConfig) -> Setup:
        """What a search needs, around the models that its configuration names.

        Raises:
            SafeThinkError: a path, a monitor, a defense or a world that does not fit.
        """
        wanted, watching = config.run.reasoner, config.run.monitor
        if self._reasoner is None or self._reasoner[0] != wanted:
            self._reasoner = None
            self._reasoner = wanted, loading.load(wanted)
        if self._monitor is None or self._monitor[0] != watching:
            self._monitor = None
            self._monitor = watching, build(watching)
        return setup.around(self._reasoner[1], self._monitor[1], config)
