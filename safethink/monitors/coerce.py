"""Whatever a caller of the Python API calls a monitor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from safethink.config import (
    ConstantMonitorConfig,
    GuardMonitorConfig,
    MonitorConfig,
    OracleMonitorConfig,
    ProbeMonitorConfig,
)
from safethink.monitors import Monitor
from safethink.monitors.build import build
from safethink.monitors.function import FunctionMonitor

MonitorLike: TypeAlias = str | MonitorConfig | Monitor | Callable[[str, str], float]
"""A guard's path, a configuration, a monitor, or a callable (prompt, trace) -> [-1, 1]."""


def as_monitor(monitor: MonitorLike) -> Monitor:
    """Build the monitor, or wrap the callable, that was given."""
    if isinstance(monitor, Monitor):
        return monitor
    if isinstance(monitor, str):
        return build(GuardMonitorConfig(path=monitor))
    if isinstance(monitor, GuardMonitorConfig | OracleMonitorConfig | ConstantMonitorConfig | ProbeMonitorConfig):
        return build(monitor)
    return FunctionMonitor(monitor)
