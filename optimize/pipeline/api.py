# pyright: standard
"""Learning from the command line, and from Python on a model that is already loaded."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from optimize.config import (
    CollectConfig,
    ContextsConfig,
    MethodConfig,
    ObjectiveConfig,
    SearchConfig,
    SelectionConfig,
)
from optimize.config.budget import Budget
from optimize.contexts import folder, splits
from optimize.contexts.folder import Manifest
from optimize.contexts.splits import Split
from optimize.objectives import Weighted
from optimize.parallel.cluster import launch
from optimize.pipeline import setup
from optimize.pipeline.budget import resolve
from optimize.pipeline.dry_run import SearchPlan, plan
from optimize.pipeline.learning import on_the_day_of, run
from optimize.pipeline.probe import Trial, try_loaded, try_search
from optimize.pipeline.setup import Setup, short
from optimize.scoring import frozen, serve
from safethink import prefix as prefixes
from safethink.config import (
    LimitsConfig,
    ReasonerConfig,
    RunConfig,
    SafeThinkConfig,
    SamplingConfig,
    ThoughtConfig,
    yaml_config,
)
from safethink.errors import ArtifactError, ConfigError
from safethink.evaluation.speed import speed
from safethink.guarded import as_prompt
from safethink.models import loading
from safethink.monitors.build import MonitorLike, as_monitor, build
from safethink.prefix import PrefixArtifact
from safethink.prompts import Prompt, refuse_duplicates


class LearnSettings(TypedDict, total=False):
    """The sections and values of `SearchConfig` and its `run` that `learn` takes by name; defaults are the YAML's."""

    name: str
    seed: int
    contexts: ContextsConfig
    objective: ObjectiveConfig
    search: MethodConfig
    selection: SelectionConfig
    thought: ThoughtConfig
    sampling: SamplingConfig
    limits: LimitsConfig
    batch_size: int


def search_command(config: SearchConfig, out: Path) -> PrefixArtifact:
    """Learn on the testbed's prompts, or on those of a file, in this process alone.

    Args:
        config: the resolved configuration.
        out: the run's folder; the artifact is `out/artifact`.

    Raises:
        SafeThinkError: there is nothing to learn from, or a path, a monitor or a world that does not fit.
    """
    config = on_the_day_of(out, config)
    return run(config, setup.load(config), out)


def shared_search_command(config: SearchConfig, out: Path, budget: Budget | None = None) -> PrefixArtifact | None:
    """Run `safethink-optimize search`: the same, in `config.devices` processes or those that `torchrun` started.

    Args:
        config: the resolved configuration.
        out: the run's folder.
        budget: takes the place of `search.budget_tokens`; a time is turned into tokens by trying the search first.

    Returns:
        The artifact; None in a process that only held a share of the contexts.

    Raises:
        SafeThinkError: as `search_command`; devices that are not there; or a budget that does not fit.
    """
    config = on_the_day_of(out, config)
    cluster = launch(config.devices, config.run.reasoner.device)
    if not cluster.is_main:
        serve(loading.load(config.run.reasoner).model, cluster)
        return None
    with cluster.leading():
        loaded = replace(setup.load(config), cluster=cluster)
        budgeted = resolve(config, out, budget, lambda: try_loaded(loaded, config))
        if budgeted.told:
            print(budgeted.told, file=sys.stderr, flush=True)
        return run(budgeted.config, loaded, out)


def search_plan_command(config: SearchConfig, out: Path, budget: Budget | None, probe: bool) -> SearchPlan:
    """Run `safethink-optimize search --dry-run`; nothing is written to `out`.

    Args:
        config: the resolved configuration.
        out: the run's folder; where a search was begun there, its budget counts.
        budget: as of `shared_search_command`.
        probe: whether the reasoner is loaded and the search tried.

    Raises:
        ConfigError: a budget that does not fit.
    """
    trial = try_search(config) if probe else Trial(speed(config.run, probe), None)
    budgeted = resolve(config, out, budget, lambda: trial)
    if budgeted.told:
        print(budgeted.told, file=sys.stderr, flush=True)
    return plan(budgeted.config, probe, trial)


def contexts_command(config: CollectConfig, out: Path) -> Manifest:
    """Run `safethink-optimize contexts`: collect contexts once, for every search that is given their folder.

    Raises:
        SafeThinkError: the monitor never fires, or a path, a monitor or a world that does not fit.
    """
    data = setup.prompts_of(config, config.forced_prompts)
    reasoner, monitor = loading.load(config.run.reasoner), build(config.run.monitor)
    guarded = setup.guard(reasoner.model, reasoner.tokenizer, monitor, config.run)
    source = setup.source_of(config.run, guarded, setup.identity(config.run.monitor))
    return folder.collect(out, guarded, data, config.contexts, source)


def learn(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    monitor: MonitorLike,
    prompts: str | Path | Sequence[str | Prompt],
    *,
    length: int | None = None,
    judge: MonitorLike | None = None,
    threshold: float = 0.0,
    out: str | Path | None = None,
    terms: Sequence[Weighted] = (),
    **settings: Unpack[LearnSettings],
) -> PrefixArtifact:
    """Learn a prefix for a model that is already loaded.

    Args:
        model: the reasoner; left as it was.
        tokenizer: the reasoner's.
        monitor: what scores its traces; any callable (prompt, trace) -> [-1, 1] will do.
        prompts: a JSONL file, or the prompts. Those without a `kind` count as attacks; harmless ones among them keep
            the prefix from hurting harmless work.
        length: number of tokens of the prefix; None for that of `search`.
        judge: a second guard that chooses among the finalists where `selection` names no judge of outputs; None takes
            the monitor itself.
        threshold: the monitor fires below it.
        out: the run's folder, in which a killed run can go on; None keeps nothing but what is returned.
        terms: what a prefix costs beside the objective: terms of one's own, each with its weight. The log has them by
            name, the artifact's configuration does not. A search over phrases goes by what they recover, and looks at
            no term.
        settings: the sections and values of `SearchConfig` and of its `run`. A search that does not say how to begin
            begins with the default `init` if that fits the tokenizer and the length, and with random tokens if not.

    Returns:
        The artifact, to be handed to `SafeThink` or saved by `safethink.prefix.save`.

    Raises:
        ConfigError: a setting that does not fit, such as a length below 1, or that there is none.
        SafeThinkError: there is nothing to learn from: too few prompts, a monitor that never fires; or two
            prompts have the same id.
    """
    named = short(model.name_or_path) if model.name_or_path else type(model).__name__
    config = _config(named, threshold, settings)
    search = config.search if length is None else config.search.replace(length=length)
    config = config.replace(search=_fitted(search, tokenizer))
    data = _splits(prompts, config.contexts, config.selection)
    watching = as_monitor(monitor)
    chooser = setup.outcome_chooser(config.selection) or setup.guard_chooser(judge, watching, threshold)
    if out is not None:
        config = on_the_day_of(Path(out), config)
    with frozen(model), tempfile.TemporaryDirectory() as scratch:
        guarded = setup.guard(model, tokenizer, watching, config.run)
        source = setup.source_of(config.run, guarded, setup.identity(monitor))
        return run(config, Setup(guarded, data, chooser, source, tuple(terms)), Path(scratch if out is None else out))


def _config(named: str, threshold: float, settings: LearnSettings) -> SearchConfig:
    """The configuration that `settings` describe."""
    known = LearnSettings.__annotations__
    for name in settings.keys() - known.keys():
        raise ConfigError(f"learn: {name}: unknown setting{yaml_config.did_you_mean(name, known)}")
    values = dict(settings)
    of_run = {name: value for name, value in values.items() if name in RunConfig.model_fields}
    of_run |= {"reasoner": ReasonerConfig(path=named), "defense": SafeThinkConfig(threshold=threshold)}
    of_search = {name: value for name, value in values.items() if name in SearchConfig.model_fields}
    run_config = yaml_config.validate(RunConfig, of_run, "learn")
    return yaml_config.validate(SearchConfig, {"name": "learned"} | of_search | {"run": run_config}, "learn")


def _fitted(search: MethodConfig, tokenizer: PreTrainedTokenizerBase) -> MethodConfig:
    """The search without its default `init` where nobody asked for that and it fits no prefix of this length."""
    if search.init is None or "init" in search.model_fields_set:
        return search
    try:
        (ids,) = prefixes.load(search.init, tokenizer).token_ids
    except ArtifactError:  # It does not round-trip.
        return search.replace(init=None)
    return search if len(ids) <= search.length else search.replace(init=None)


def _splits(
    prompts: str | Path | Sequence[str | Prompt], contexts: ContextsConfig, selection: SelectionConfig
) -> tuple[Split, Split]:
    """Prompts to search on and to choose on, as many as are asked for."""
    if isinstance(prompts, str | Path):
        search, validation = splits.of_file(Path(prompts))
    else:
        own = [as_prompt(prompt) for prompt in prompts]
        refuse_duplicates(own)
        search, validation = splits.of_prompts(own)
    return (
        search.first(contexts.prompts, contexts.harmless_prompts),
        validation.first(contexts.prompts, selection.forced_prompts),
    )
