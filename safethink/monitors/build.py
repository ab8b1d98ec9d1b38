"""From a monitor's section of the YAML to the monitor itself; a model loads only where one is asked for."""

from __future__ import annotations

from safethink.config import (
    ConstantMonitorConfig,
    GuardMonitorConfig,
    GuardServerConfig,
    MonitorConfig,
    OracleMonitorConfig,
)
from safethink.monitors import Monitor


def build(config: MonitorConfig) -> Monitor:
    """Build the monitor that `config` describes.

    Raises:
        MissingFileError: if a guard's model cannot be found.
        ConfigError: if it cannot be used as configured.
        ServerError: if it stands behind a server that cannot be reached, or answers nonsense.
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
    from safethink.loading import load_causal_lm
    from safethink.monitors.guard import GuardMonitor
    from safethink.testbed import folders

    path = folders().guard if config.path == "testbed" else config.path
    if config.server is not None:
        return _served_guard(config, str(path), config.server)
    loaded = load_causal_lm(path, config.revision, config.dtype, config.device)
    return GuardMonitor(loaded.model, loaded.tokenizer, config.safe, config.unsafe)


def _served_guard(config: GuardMonitorConfig, path: str, server: GuardServerConfig) -> Monitor:
    from safethink.engines.completions import Completions
    from safethink.loading import load_tokenizer
    from safethink.monitors.guard import GuardQuestions
    from safethink.monitors.http_guard import ChatGuard, CompletionsGuard

    tokenizer = load_tokenizer(path, config.revision)
    if server.api == "chat":
        control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
        return ChatGuard(server, {config.safe: 1.0, config.unsafe: 0.0}, control)
    questions = GuardQuestions(tokenizer, config.safe, config.unsafe)
    verdicts = questions.verdicts.safe, questions.verdicts.unsafe
    return CompletionsGuard(
        Completions(server, tokenizer), lambda request: [questions.ask(request)[0]], verdicts, (1.0, 0.0)
    )
