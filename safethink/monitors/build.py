"""From a monitor's section of the YAML to the monitor itself; a model loads only where one is asked for."""

from __future__ import annotations

from pathlib import Path

from safethink.config import (
    ConstantMonitorConfig,
    GuardMonitorConfig,
    MonitorConfig,
    OracleMonitorConfig,
    ProbeMonitorConfig,
)
from safethink.monitors import Monitor


def build(config: MonitorConfig) -> Monitor:
    """Build the monitor that `config` describes.

    Raises:
        MissingFileError: if a guard's model or a probe's folder cannot be found.
        ArtifactError: if a probe is damaged or half-written.
        ConfigError: if it cannot be used as configured.
    """
    match config:
        case GuardMonitorConfig():
            return _guard(config)
        case OracleMonitorConfig():
            from safethink.monitors.oracle import OracleMonitor

            return OracleMonitor(config.miss_rate, config.false_alarm_rate, config.seed)
        case ConstantMonitorConfig():
            from safethink.monitors.constant import ConstantMonitor

            return ConstantMonitor(config.value)
        case ProbeMonitorConfig():
            from safethink import probe
            from safethink.monitors.probe import ProbeMonitor

            return ProbeMonitor(probe.load(Path(config.path)))


def _guard(config: GuardMonitorConfig) -> Monitor:
    from safethink.loading import load_causal_lm
    from safethink.monitors.guard import GuardMonitor
    from safethink.testbed import folders

    path = folders().guard if config.path == "testbed" else config.path
    loaded = load_causal_lm(path, config.revision, config.dtype, config.device)
    return GuardMonitor(loaded.model, loaded.tokenizer, config.safe, config.unsafe)
