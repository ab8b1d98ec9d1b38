"""From a monitor's section of the YAML to the monitor itself; a model loads only where one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias, TypeGuard

from safethink.config import (
    CascadeMonitorConfig,
    CombinationSection,
    ConstantMonitorConfig,
    EntryPointMonitorConfig,
    GuardMonitorConfig,
    GuardServerConfig,
    KeywordMonitorConfig,
    MinMonitorConfig,
    MonitorConfig,
    MonitorSection,
    OracleMonitorConfig,
    ProbeMonitorConfig,
    RewardMonitorConfig,
    StreamMonitorConfig,
)
from safethink.config.plugins import PluginKind
from safethink.errors import ConfigError
from safethink.models.shipped import located
from safethink.monitors import Monitor, ScoreRequest
from safethink.monitors.function import FunctionMonitor


def build(config: MonitorSection) -> Monitor:
    """Build the monitor that `config` describes.

    Raises:
        MissingFileError: if a model or a probe's folder cannot be found.
        ArtifactError: if a probe is damaged or half-written.
        ConfigError: if it cannot be used as configured.
        ServerError: if it stands behind a server that cannot be reached, or answers nonsense.
    """
    monitor = _built(config)
    if config.persistence == 1:
        return monitor
    from safethink.monitors.persistence import PersistentMonitor

    return PersistentMonitor(monitor, config.persistence)


def _built(config: MonitorSection) -> Monitor:
    """The monitor, which fires at once."""
    match config:
        case GuardMonitorConfig():
            return _guard(config)
        case StreamMonitorConfig():
            return _stream(config)
        case RewardMonitorConfig():
            return _reward(config)
        case KeywordMonitorConfig():
            from safethink.monitors.keyword import KeywordMonitor
            from safethink.refusals import REFUSAL_PHRASES

            return KeywordMonitor(config.phrases or REFUSAL_PHRASES, config.found, config.absent)
        case OracleMonitorConfig():
            from safethink.monitors.oracle import OracleMonitor

            return OracleMonitor(*config.rates, config.seed)
        case ConstantMonitorConfig():
            from safethink.monitors.function import ConstantMonitor

            return ConstantMonitor(config.value)
        case ProbeMonitorConfig():
            from safethink.monitors import probe
            from safethink.monitors.probe import ProbeMonitor

            return ProbeMonitor(probe.load(Path(located(config.path))))
        case EntryPointMonitorConfig():
            return PLUGINS.make(config.name, config.options)
        case CombinationSection():
            return _combination(config)
        case _:
            raise ConfigError(f"{type(config).__name__} describes no monitor that is known here")


def _guard(config: GuardMonitorConfig) -> Monitor:
    from safethink.monitors.guards.choosing import choose_preset
    from safethink.monitors.guards.generative import GuardMonitor
    from safethink.monitors.loading import chat_template, load_guard

    if config.server is not None:
        return _served_guard(config, config.server)
    loaded = load_guard(config)
    preset = choose_preset(config, loaded.model.config.model_type, config.path, chat_template(loaded.tokenizer))
    return GuardMonitor(loaded.model, loaded.tokenizer, preset, config.batch_size, config.path)


def _served_guard(config: GuardMonitorConfig, server: GuardServerConfig) -> Monitor:
    from safethink.models.checkpoint import Checkpoint
    from safethink.monitors.guards.choosing import choose_preset
    from safethink.monitors.guards.generative import Verdicts, replies_of
    from safethink.monitors.guards.questions import Asker
    from safethink.monitors.guards.roles import refuse_swapped_roles
    from safethink.monitors.guards.served import ChatGuard, CompletionsGuard
    from safethink.monitors.loading import chat_template, guard_path
    from safethink.servers import canary
    from safethink.servers.completions import Completions

    checkpoint = Checkpoint(guard_path(config), config.revision)
    tokenizer = checkpoint.tokenizer()
    own = checkpoint.config()
    preset = choose_preset(config, own.model_type, config.path, chat_template(tokenizer))
    asker = Asker(tokenizer, preset.form, config.path)
    refuse_swapped_roles(asker)
    verdicts, replies = Verdicts.of(preset, asker), replies_of(preset, asker)
    if server.api == "chat":
        if not preset.form.is_asked_by_template or preset.form.policies or preset.form.template_args:
            raise ConfigError(
                f"guard {config.path!r} is asked in words or by policies of its own, which a chat server cannot be "
                "told; use `api: completions`"
            )
        if replies is not None or preset.form.control:
            raise ConfigError(
                f"guard {config.path!r} says more than a verdict in words, and a chat server gives no probabilities "
                "of it; use `api: completions`"
            )
        control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip()]
        words = [verdict.text for verdict in preset.verdicts]
        return ChatGuard(server, dict(zip(words, verdicts.safety, strict=True)), control, preset.form.forced)

    def questions(request: ScoreRequest) -> list[tuple[int, ...]]:
        return [asker.ask(request.prompt, request.trace, policy).ids for policy in range(asker.num_policies)]

    completions = Completions(server, tokenizer)
    canary.check_if_recurrent(completions, own)
    return CompletionsGuard(completions, questions, verdicts.ids, verdicts.safety, replies)


def _stream(config: StreamMonitorConfig) -> Monitor:
    from safethink.monitors.guards.stream import StreamMonitor
    from safethink.monitors.loading import load_stream

    loaded = load_stream(config)
    return StreamMonitor(
        loaded.model,
        loaded.tokenizer,
        config.controversial,
        config.debounce,
        config.ignored_categories,
        config.batch_size,
        config.only_categories,
    )


def _reward(config: RewardMonitorConfig) -> Monitor:
    from safethink.monitors.guards.forms import Form
    from safethink.monitors.loading import load_scorer
    from safethink.monitors.reward import BEAVER, CHAT, RewardMonitor, Scale
    from safethink.monitors.reward_models import BeaverScorer

    loaded = load_scorer(config)
    is_beaver = isinstance(loaded.model, BeaverScorer)
    is_cost = isinstance(loaded.model, BeaverScorer) and loaded.model.is_cost
    higher_is_safer = not is_cost if config.higher_is_safer is None else config.higher_is_safer
    form = BEAVER if is_beaver else CHAT
    return RewardMonitor(
        loaded.model,
        loaded.tokenizer,
        Scale(config.center, config.scale, higher_is_safer, config.squash),
        form if config.template is None else Form(text=config.template),
        config.label,
        config.batch_size,
    )


def _combination(config: CombinationSection) -> Monitor:
    from safethink.monitors.combinations import CascadeMonitor, MeanMonitor, MinMonitor

    members = [build(member) for member in config.members]
    if isinstance(config, CascadeMonitorConfig):
        return CascadeMonitor(members, config.low, config.high)
    return MinMonitor(members) if isinstance(config, MinMonitorConfig) else MeanMonitor(members)


def _is_monitor(found: object) -> TypeGuard[Monitor]:
    return isinstance(found, Monitor) and not isinstance(found, type)


PLUGINS = PluginKind("monitor", "safethink.monitors", _is_monitor, "`score` and `release`")
"""Monitors of other packages."""

MonitorLike: TypeAlias = str | MonitorConfig | Monitor | Callable[[str, str], float]
"""A guard's path, a configuration, a monitor, or a callable (prompt, trace) -> [-1, 1]."""


def as_monitor(monitor: MonitorLike) -> Monitor:
    """Build the monitor, or wrap the callable, that was given."""
    if isinstance(monitor, Monitor):
        return monitor
    if isinstance(monitor, str):
        return build(GuardMonitorConfig(path=monitor))
    if isinstance(monitor, MonitorSection):
        return build(monitor)
    return FunctionMonitor(monitor)
