"""One frozen model per YAML section of `safethink-optimize`. Imports no torch, so help and validation are instant."""

from optimize.config.contexts import ContextsConfig
from optimize.config.learning import CollectConfig, LearningSection, PromptSetsConfig, SearchConfig, refuse_devices
from optimize.config.methods import (
    BeamConfig,
    EntryPointMethodConfig,
    EvolutionConfig,
    GcgConfig,
    GradientSection,
    MethodConfig,
    PhrasesConfig,
    RandomConfig,
    ReflectConfig,
    RelaxedConfig,
    SearchSection,
    SoftConfig,
    UnigramConfig,
    WriterConfig,
)
from optimize.config.objective import EntryPointTermConfig, ObjectiveConfig, RacingConfig, RewardConfig
from optimize.config.selection import ChosenBy, SelectionConfig

__all__ = [
    "BeamConfig",
    "ChosenBy",
    "CollectConfig",
    "ContextsConfig",
    "EntryPointMethodConfig",
    "EntryPointTermConfig",
    "EvolutionConfig",
    "GcgConfig",
    "GradientSection",
    "LearningSection",
    "MethodConfig",
    "ObjectiveConfig",
    "PhrasesConfig",
    "PromptSetsConfig",
    "RacingConfig",
    "RandomConfig",
    "ReflectConfig",
    "RelaxedConfig",
    "RewardConfig",
    "SearchConfig",
    "SearchSection",
    "SelectionConfig",
    "SoftConfig",
    "UnigramConfig",
    "WriterConfig",
    "refuse_devices",
]
