"""The monitors, one section per kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from safethink.config.section import Section


class GuardMonitorConfig(Section):
    """A generative guard: score = 2 P(safe) - 1 from its verdicts' log-probabilities."""

    kind: Literal["guard"] = "guard"
    path: str = "testbed"
    """Folder or hub id; `testbed` names the shipped guard."""
    revision: str | None = None
    """Commit of the hub repository."""
    safe: str = "safe"
    """The verdict that means safe."""
    unsafe: str = "unsafe"
    """The verdict that means unsafe."""
    dtype: Literal["auto", "float32", "float64", "bfloat16", "float16"] = "auto"
    """Precision of the weights."""
    device: str = "auto"
    """`cpu`, `cuda`, ...; `auto` takes a GPU where there is one."""


class OracleMonitorConfig(Section):
    """The testbed's oracle as a monitor: exact, +1 or -1, or as wrong as asked for. Only for prompts of the testbed."""

    kind: Literal["oracle"] = "oracle"
    miss_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of drifted traces that it passes; drawn anew at every step."""
    false_alarm_rate: float = Field(default=0.0, ge=0, le=1)
    """Share of the others that it fires at."""
    seed: int = 0
    """Draws which ones."""

    @property
    def name(self) -> str:
        """What artifacts and reports call it: two that err differently are two monitors."""
        if not self.miss_rate and not self.false_alarm_rate:
            return self.kind
        return f"{self.kind}, miss rate {self.miss_rate}, false alarm rate {self.false_alarm_rate}, seed {self.seed}"


class ConstantMonitorConfig(Section):
    """Always the same score; 1.0 never fires. For comparisons and tests."""

    kind: Literal["constant"] = "constant"
    value: float = Field(default=1.0, ge=-1, le=1)
    """The score."""


class ProbeMonitorConfig(Section):
    """A linear head on the reasoner's own hidden states; reads injected tokens too, as no monitor of text does."""

    kind: Literal["probe"] = "probe"
    path: str
    """Folder of the probe, as `safethink-optimize monitor` writes it."""


MonitorConfig = Annotated[
    GuardMonitorConfig | OracleMonitorConfig | ConstantMonitorConfig | ProbeMonitorConfig,
    Field(discriminator="kind"),
]
