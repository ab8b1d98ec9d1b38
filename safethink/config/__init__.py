"""One frozen model per YAML section. Imports no torch, so help and validation are instant."""

from __future__ import annotations

from safethink.config.defenses import (
    AlwaysConfig,
    DefenseConfig,
    EntryPointDefenseConfig,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
    SatisficingConfig,
    SteeringConfig,
)
from safethink.config.evaluation import (
    BenchmarkConfig,
    EntryPointJudgeConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    RowConfig,
    TestbedBenchmarkConfig,
)
from safethink.config.monitors import (
    CascadeMonitorConfig,
    CombinationSection,
    ConstantMonitorConfig,
    EntryPointMonitorConfig,
    GuardMonitorConfig,
    KeywordMonitorConfig,
    MeanMonitorConfig,
    MinMonitorConfig,
    ModelSection,
    MonitorConfig,
    OracleMonitorConfig,
    ProbeMonitorConfig,
    RewardMonitorConfig,
    StreamMonitorConfig,
)
from safethink.config.reasoner import LimitsConfig, ReasonerConfig, SamplingConfig, ThoughtConfig
from safethink.config.run import RunConfig, WorldConfig
from safethink.config.section import EntryPointSection, MonitorSection, Section
from safethink.config.weights import GuardServerConfig, ServerConfig

__all__ = [
    "AlwaysConfig",
    "BenchmarkConfig",
    "CascadeMonitorConfig",
    "CombinationSection",
    "ConstantMonitorConfig",
    "DefenseConfig",
    "EntryPointDefenseConfig",
    "EntryPointJudgeConfig",
    "EntryPointMonitorConfig",
    "EntryPointSection",
    "EvalConfig",
    "GuardMonitorConfig",
    "GuardRefuseConfig",
    "GuardServerConfig",
    "JsonlBenchmarkConfig",
    "KeywordMonitorConfig",
    "LimitsConfig",
    "MeanMonitorConfig",
    "MinMonitorConfig",
    "ModelSection",
    "MonitorConfig",
    "MonitorSection",
    "NoneConfig",
    "OracleMonitorConfig",
    "ProbeMonitorConfig",
    "ReasonerConfig",
    "ResampleOnlyConfig",
    "RewardMonitorConfig",
    "RowConfig",
    "RunConfig",
    "SafeThinkConfig",
    "SamplingConfig",
    "SatisficingConfig",
    "Section",
    "ServerConfig",
    "SteeringConfig",
    "StreamMonitorConfig",
    "TestbedBenchmarkConfig",
    "ThoughtConfig",
    "WorldConfig",
]
