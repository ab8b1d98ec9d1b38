"""One frozen model per YAML section. Imports no torch, so help and validation are instant."""

from __future__ import annotations

from safethink.config.defenses import (
    AlwaysConfig,
    DefenseConfig,
    DefenseSection,
    GuardRefuseConfig,
    NoneConfig,
    ResampleOnlyConfig,
    SafeThinkConfig,
    SatisficingConfig,
    SteeringConfig,
)
from safethink.config.evaluation import (
    BenchmarkConfig,
    EvalConfig,
    JsonlBenchmarkConfig,
    RowConfig,
    TestbedBenchmarkConfig,
)
from safethink.config.monitors import (
    ConstantMonitorConfig,
    GuardMonitorConfig,
    MonitorConfig,
    OracleMonitorConfig,
    ProbeMonitorConfig,
)
from safethink.config.reasoner import LimitsConfig, ReasonerConfig, SamplingConfig, ThoughtConfig
from safethink.config.run import RunConfig, WorldConfig
from safethink.config.section import Section

__all__ = [
    "AlwaysConfig",
    "BenchmarkConfig",
    "ConstantMonitorConfig",
    "DefenseConfig",
    "DefenseSection",
    "EvalConfig",
    "GuardMonitorConfig",
    "GuardRefuseConfig",
    "JsonlBenchmarkConfig",
    "LimitsConfig",
    "MonitorConfig",
    "NoneConfig",
    "OracleMonitorConfig",
    "ProbeMonitorConfig",
    "ReasonerConfig",
    "ResampleOnlyConfig",
    "RowConfig",
    "RunConfig",
    "SafeThinkConfig",
    "SamplingConfig",
    "SatisficingConfig",
    "Section",
    "SteeringConfig",
    "TestbedBenchmarkConfig",
    "ThoughtConfig",
    "WorldConfig",
]
