"""From a monitor's section of the YAML to the monitor itself; a model loads only where one is asked for."""

from __future__ import annotations

from safethink.config import ConstantMonitorConfig, GuardMonitorConfig, MonitorConfig, OracleMonitorConfig
from safethink.errors import MissingFileError
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

            return OracleMonitor()
        case ConstantMonitorConfig():
            from safethink.monitors.constant import ConstantMonitor

            return ConstantMonitor(config.value)


def _guard(config: GuardMonitorConfig) -> Monitor:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from safethink import testbed
    from safethink.loading import pick_device, pick_dtype
    from safethink.monitors.guard import GuardMonitor

    path = testbed.folders().guard if config.path == "testbed" else config.path
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=config.revision)
        model = AutoModelForCausalLM.from_pretrained(path, revision=config.revision, dtype=dtype, use_safetensors=True)
    except OSError as error:
        raise MissingFileError(f"no guard at {config.path!r}: {str(error).splitlines()[0]}") from error
    torch.nn.Module.to(model, device)
    return GuardMonitor(model.eval().requires_grad_(False), tokenizer, config.safe, config.unsafe)
