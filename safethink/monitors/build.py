"""From a monitor's section of the YAML to the monitor itself; a model loads only where one is asked for."""

from __future__ import annotations

from safethink.config import ConstantMonitorConfig, GuardMonitorConfig, MonitorConfig, OracleMonitorConfig
from safethink.monitors import Monitor


def build(config: MonitorConfig) -> Monitor:
    """Build the monitor that `config` describes.

    Raises:
        MissingFileError: if a guard's model cannot be found.
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


def _guard(config: GuardMonitorConfig) -> Monitor:
    from safethink.monitors.guard import GuardMonitor
    from safethink.monitors.loading import load_guard
    from safethink.monitors.presets import choose

    loaded = load_guard(config)
    template = loaded.tokenizer.chat_template or ""
    preset = choose(config, loaded.model.config.model_type, config.path, str(template))
    return GuardMonitor(loaded.model, loaded.tokenizer, preset, config.batch_size)
