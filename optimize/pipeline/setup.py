# pyright: standard
"""Setup of learning: the guarded reasoner, the prompts, and the labeller that chooses."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from optimize.config import CollectConfig, EntryPointMethodConfig, SearchConfig, SelectionConfig
from optimize.contexts import ContextSet, prompt_sets, splits
from optimize.contexts.folder import Source
from optimize.contexts.splits import Split
from optimize.objectives import Weighted
from optimize.objectives import plugins as objective_terms
from optimize.parallel.cluster import Cluster
from optimize.search import methods
from optimize.selection.judges import Chooser, DevJudge, MonitorJudge, OutcomeJudge
from optimize.selection.trials import Arena
from safethink import defenses
from safethink.config import (
    DefenseConfig,
    ModelSection,
    MonitorConfig,
    MonitorSection,
    NoneConfig,
    ProbeMonitorConfig,
    ReasonerConfig,
    RunConfig,
)
from safethink.errors import ConfigError
from safethink.guarded import SafeThink
from safethink.judges import build as judges
from safethink.models import loading
from safethink.models.hashes import model_hash
from safethink.models.loading import CausalLM
from safethink.monitors import Monitor, fingerprint_of, layer_read_by
from safethink.monitors.build import MonitorLike, as_monitor, build
from safethink.prefix import Identity
from safethink.prompts import Prompt
from safethink.testbed.origin import origin, require_world


def short(path: str) -> str:
    """A hub id as it is, a file or a folder without the way to it; a trained testbed by its world."""
    if os.sep not in path or not os.path.exists(path):
        return path
    trained = origin(path)
    return Path(path).resolve().name if trained is None else f"testbed-{trained.kind}"


def portable(value: Any) -> Any:
    """A configuration's values, with what lies on this machine called by its name alone."""
    if isinstance(value, dict):
        return {key: portable(each) for key, each in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [portable(each) for each in cast("list[Any]", value)]
    return short(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class Setup:
    """Everything that a search shares with others over the same models and prompts.

    Attributes:
        guarded: the reasoner with its monitor.
        data: the prompts to search on and those to choose on.
        chooser: judges the finalists.
        source: names and hashes of the models, and the threshold.
        terms: what the objective sums beside what its configuration says.
        cluster: the processes that share the contexts of the search.
    """

    guarded: SafeThink
    data: tuple[Split, Split]
    chooser: Chooser
    source: Source
    terms: tuple[Weighted, ...] = ()
    cluster: Cluster = field(default_factory=Cluster.local)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts of both splits."""
        return tuple(prompt for split in self.data for prompt in split.prompts)

    def arena(self, validation: ContextSet, selection: SelectionConfig, defense: DefenseConfig) -> Arena:
        """Arena in which prefixes are tried on contexts of validation, for the defense that will inject them.

        Raises:
            SearchError: the judge confirms no drifted state.
        """
        return Arena.build(self.guarded, self.chooser, validation, selection, self.source.threshold, defense)


def load(config: SearchConfig) -> Setup:
    """Load what a search needs: the testbed's prompts, or those of a file.

    Raises:
        SafeThinkError: a path, a monitor, a defense or a world that does not fit.
    """
    # What is not there, and a defense without a threshold, is refused before anything loads.
    threshold_of(config.run)
    if isinstance(config.search, EntryPointMethodConfig):
        methods.PLUGINS.find(config.search.name)
    for term in config.objective.terms:
        objective_terms.PLUGINS.find(term.name)
    return around(loading.load(config.run.reasoner), build(config.run.monitor), config)


def around(reasoner: CausalLM, monitor: Monitor, config: SearchConfig) -> Setup:
    """Setup of a search around models that are loaded already: those that `config.run` names.

    Raises:
        SafeThinkError: as `load`.
    """
    threshold = threshold_of(config.run)
    guarded = guard(reasoner.model, reasoner.tokenizer, monitor, config.run)
    return Setup(
        guarded,
        prompts_of(config, config.selection.forced_prompts),
        _chooser(config, monitor, threshold),
        source_of(config.run, guarded, identity(config.run.monitor)),
    )


def _chooser(config: SearchConfig, monitor: Monitor, threshold: float) -> Chooser:
    """The labeller that a configuration names; without a name the testbed's own, or the monitor."""
    if (chooser := outcome_chooser(config.selection)) is not None:
        return chooser
    return DevJudge(config.seed) if config.on_testbed else guard_chooser(config.selection.judge, monitor, threshold)


def outcome_chooser(selection: SelectionConfig) -> Chooser | None:
    """The judge of whole outputs that chooses; None where none is named."""
    if selection.outcome_judge is None:
        return None
    built = judges.build(selection.outcome_judge)
    return OutcomeJudge(built.judge, f"a judge: {built.name}")


def prompts_of(config: SearchConfig | CollectConfig, forced_prompts: int) -> tuple[Split, Split]:
    """The prompts to search on and those to choose on, as many as are asked for.

    Args:
        config: names them.
        forced_prompts: harmless and borderline prompts to choose on.

    Raises:
        MissingFileError: the file is not there.
        ConfigError: a line that is no prompt, too few of them, or a world that the reasoner does not have.
    """
    num_attacks, num_harmless = config.contexts.prompts, config.contexts.harmless_prompts
    if config.prompts is not None:
        search, validation = splits.of_file(Path(config.prompts))
        return search.first(num_attacks, num_harmless), validation.first(num_attacks, forced_prompts)
    if config.prompt_sets is not None:
        search, validation = prompt_sets.load(config.prompt_sets)
        return search.first(num_attacks, num_harmless), validation.first(num_attacks, forced_prompts)
    require_world(config.run.reasoner.path, config.world)
    return (
        splits.of_testbed("search", num_attacks, num_harmless, config.world),
        splits.of_testbed("validation", num_attacks, forced_prompts, config.world),
    )


def threshold_of(config: RunConfig) -> float:
    """Below what the monitor fires.

    Raises:
        ConfigError: the defense has no threshold.
    """
    rule = defenses.build(config.defense)
    if rule.needs.threshold is None:
        raise ConfigError(f"run.defense: {rule.name!r} has no threshold; learning needs one, as safethink has")
    return rule.needs.threshold


def guard(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monitor: Monitor, config: RunConfig) -> SafeThink:
    """The reasoner with its monitor, under the settings of `config`; it has no prefix yet, and injects none.

    Raises:
        ConfigError: the model does not think.
    """
    guarded = SafeThink(
        model,
        tokenizer,
        monitor=monitor,
        prefix=None,
        defense=NoneConfig(),
        thought=config.thought,
        sampling=config.sampling,
        limits=config.limits,
        batch_size=config.batch_size,
        seed=config.seed,
        template_args=config.reasoner.template_args,
    )
    if not guarded.thought.family.thinks:
        raise ConfigError(
            f"run.thought.family is {guarded.thought.family.name}: a prefix is learned for the steps of a reasoner's "
            "thinking, and this model has none"
        )
    return guarded


def guard_chooser(judge: MonitorLike | None, monitor: Monitor, threshold: float) -> MonitorJudge:
    """A second guard where one is given, else the monitor itself.

    Raises:
        ConfigError: whoever would choose does not go by text alone.
    """
    if judge is None:
        _refuse_reader_of_states(monitor, "the monitor itself would choose, and")
        return MonitorJudge(monitor, threshold, "the monitor itself")
    second = as_monitor(judge)
    _refuse_reader_of_states(second, "selection.judge:")
    return MonitorJudge(second, threshold, f"a second guard: {identity(judge).name}")


def _refuse_reader_of_states(monitor: Monitor, where: str) -> None:
    """Whoever chooses judges trace and answer as text, which a monitor on hidden states does not read.

    Raises:
        ConfigError: the monitor reads hidden states.
    """
    if layer_read_by(monitor) is not None:
        raise ConfigError(
            f"{where} {type(monitor).__name__} reads the reasoner's hidden states, not what an output says; let "
            "selection.outcome_judge choose, such as refusal, or a guard as selection.judge"
        )


def source_of(config: RunConfig, guarded: SafeThink, monitor: Identity) -> Source:
    """Names and hashes of the models; reads every weight once."""
    fingerprint = fingerprint_of(guarded.monitor)
    if fingerprint is not None:
        monitor = monitor.replace(sha256=fingerprint)
    reasoner = Identity(
        name=short(config.reasoner.path),
        revision=config.reasoner.revision,
        sha256=model_hash(guarded.model, rounded=True),
    )
    return Source(reasoner=reasoner, monitor=monitor, threshold=threshold_of(config), seed=config.seed)


def identity(monitor: MonitorLike) -> Identity:
    """Identity of a monitor in an artifact."""
    match monitor:
        case str():
            return Identity(name=short(monitor))
        case ModelSection():
            return Identity(name=short(monitor.path), revision=monitor.revision)
        case ProbeMonitorConfig():
            return Identity(name=f"{short(monitor.path)} ({monitor.NOTE})")
        case MonitorSection():
            return Identity(name=monitor.title)
        case _:
            return Identity(name=getattr(monitor, "__name__", type(monitor).__name__))


class Models:
    """At most one reasoner and one monitor at a time: two may not fit."""

    def __init__(self) -> None:
        self._reasoner: tuple[ReasonerConfig, CausalLM] | None = None
        self._monitor: tuple[MonitorConfig, Monitor] | None = None

    def setup(self, config: SearchConfig) -> Setup:
        """Setup of a search, around the models that its configuration names.

        Raises:
            SafeThinkError: a path, a monitor, a defense or a world that does not fit.
        """
        wanted, watching = config.run.reasoner, config.run.monitor
        if self._reasoner is None or self._reasoner[0] != wanted:
            self._reasoner = None
            self._reasoner = wanted, loading.load(wanted)
        if self._monitor is None or self._monitor[0] != watching:
            self._monitor = None
            self._monitor = watching, build(watching)
        return around(self._reasoner[1], self._monitor[1], config)
