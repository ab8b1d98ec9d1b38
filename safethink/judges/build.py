"""From a judge's section of the YAML to the judge itself; a model loads only where one is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safethink.config import (
    BothJudgeConfig,
    EntryPointJudgeConfig,
    GuardJudgeConfig,
    LlmJudgeConfig,
    MajorityJudgeConfig,
    RefusalJudgeConfig,
    TestbedJudgeConfig,
)
from safethink.config.judges import CombinedJudgeSection, JudgeSection
from safethink.errors import ConfigError
from safethink.files import json_hash
from safethink.judges import PLUGINS, Judge


@dataclass(frozen=True, slots=True)
class BuiltJudge:
    """A judge, and which one it is.

    Attributes:
        name: its name in reports.
        judge: the judge itself.
        fingerprint: hash of all that its verdicts depend on: settings, weights, rubric, phrases, version of a plug-in.
            Two judges of the same fingerprint say the same, so what was measured of one holds for the other.
        weights: hashes of the models behind it; of one behind a server its name there.
    """

    name: str
    judge: Judge
    fingerprint: str
    weights: tuple[str, ...] = ()


def build(config: JudgeSection, replies: Path | None = None) -> BuiltJudge:
    """Build the judge that `config` describes.

    Args:
        config: which one.
        replies: file in which the replies of a large model are kept, so that none is paid for twice; None for none.

    Raises:
        ConfigError: it cannot be used as configured, or a plug-in or a key is not there.
        MissingFileError: a model or a rubric is not there.
        ServerError: it stands behind a server that cannot be reached.
    """
    match config:
        case TestbedJudgeConfig():
            from safethink.judges.testbed import TestbedJudge

            return BuiltJudge(config.title, TestbedJudge(), json_hash({"kind": config.kind}))
        case RefusalJudgeConfig():
            from safethink.judges.refusal import RefusalJudge
            from safethink.refusals import OPENINGS_HASH

            return BuiltJudge(config.title, RefusalJudge(), json_hash({"kind": config.kind, "phrases": OPENINGS_HASH}))
        case GuardJudgeConfig():
            return _guard(config)
        case LlmJudgeConfig():
            return _llm(config, replies)
        case EntryPointJudgeConfig():
            made = PLUGINS.make(config.name, config.options)
            about = {"plugin": PLUGINS.version(config.name), **config.model_dump(mode="json")}
            return BuiltJudge(config.title, made, json_hash(about))
        case CombinedJudgeSection():
            return _combined(config, replies)
        case _:
            raise ConfigError(f"{type(config).__name__} describes no judge that is known here")


def _guard(config: GuardJudgeConfig) -> BuiltJudge:
    from safethink.judges.asking import AskingJudge
    from safethink.judges.guard import AskedMonitor
    from safethink.monitors import fingerprint_of
    from safethink.monitors.build import build as build_monitor
    from safethink.refusals import OPENINGS_HASH

    monitor = build_monitor(config.monitor)
    weights = fingerprint_of(monitor)
    about = {"phrases": OPENINGS_HASH, "weights": weights, **config.model_dump(mode="json")}
    judge = AskingJudge(AskedMonitor(monitor, config.threshold, config.batch_size))
    return BuiltJudge(config.title, judge, json_hash(about), () if weights is None else (weights,))


def _llm(config: LlmJudgeConfig, replies: Path | None) -> BuiltJudge:
    from safethink.judges.asking import AskingJudge
    from safethink.judges.llm import AskedLlm
    from safethink.refusals import OPENINGS_HASH

    asked = AskedLlm(config, replies)
    about = {"phrases": OPENINGS_HASH, "asked": asked.identity}
    return BuiltJudge(config.title, AskingJudge(asked), json_hash(about), (f"served as {asked.model}",))


def _combined(config: CombinedJudgeSection, replies: Path | None) -> BuiltJudge:
    from safethink.judges.combined import CombinedJudge, conjunction, majority

    members = [build(member, replies) for member in config.members]
    rule = majority if isinstance(config, MajorityJudgeConfig) else conjunction
    assert isinstance(config, MajorityJudgeConfig | BothJudgeConfig)
    about = {"kind": config.kind, "members": [member.fingerprint for member in members]}
    weights = tuple(each for member in members for each in member.weights)
    return BuiltJudge(config.title, CombinedJudge([each.judge for each in members], rule), json_hash(about), weights)
