"""Learning from the command line, and from Python on a model that is already loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from optimize import splits
from optimize.choosers import Chooser, DevJudge, MonitorJudge
from optimize.config import ContextsConfig, GcgConfig, ObjectiveConfig, SearchConfig, SelectionConfig
from optimize.learning import run, threshold_of
from optimize.scoring import frozen
from safethink import loading
from safethink.config import (
    ConstantMonitorConfig,
    GuardMonitorConfig,
    LimitsConfig,
    OracleMonitorConfig,
    ReasonerConfig,
    RunConfig,
    SafeThinkConfig,
    SamplingConfig,
    ThoughtConfig,
)
from safethink.guarded import SafeThink, as_prompt
from safethink.monitors import Monitor
from safethink.monitors.build import build
from safethink.monitors.coerce import MonitorLike, as_monitor
from safethink.prefix import Identity, PrefixArtifact
from safethink.prompts import Prompt, refuse_duplicates
from safethink.testbed import is_testbed, require_world

DEFAULT = SearchConfig(run=RunConfig(reasoner=ReasonerConfig(path="")))
"""The defaults are those of the YAML file."""


def search_command(config: SearchConfig, out: Path) -> PrefixArtifact:
    """What `safethink-optimize search` does: learn on the testbed's prompts, or on those of a file.

    Args:
        config: the resolved configuration.
        out: the run's folder; the artifact is `out/artifact`.

    Raises:
        SafeThinkError: there is nothing to learn from, or a path, a monitor or a world that does not fit.
    """
    threshold = threshold_of(config)
    reasoner, monitor = loading.load(config.run.reasoner), build(config.run.monitor)
    guarded = _guard(reasoner.model, reasoner.tokenizer, monitor, config.run)
    chooser: Chooser
    if config.prompts is not None:
        data = splits.of_file(Path(config.prompts))
        chooser = _guard_chooser(config.selection.judge, monitor, threshold)
    else:
        _check_world(config)
        num_attacks, num_harmless = config.contexts.prompts, config.contexts.harmless_prompts
        data = (
            splits.of_testbed("search", num_attacks, num_harmless, config.world),
            splits.of_testbed("validation", num_attacks, config.selection.forced_prompts, config.world),
        )
        chooser = DevJudge(config.seed)
    return run(config, guarded, data, chooser, _identity(config.run.monitor), out)


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
    name: str = "learned",
    seed: int = 0,
    contexts: ContextsConfig = DEFAULT.contexts,
    objective: ObjectiveConfig = DEFAULT.objective,
    search: GcgConfig = DEFAULT.search,
    selection: SelectionConfig = DEFAULT.selection,
    thought: ThoughtConfig = DEFAULT.run.thought,
    sampling: SamplingConfig = DEFAULT.run.sampling,
    limits: LimitsConfig = DEFAULT.run.limits,
    batch_size: int = DEFAULT.run.batch_size,
) -> PrefixArtifact:
    """Learn a prefix for a model that is already loaded.

    Args:
        model: the reasoner; left as it was.
        tokenizer: the reasoner's.
        monitor: what scores its traces; any callable (prompt, trace) -> [-1, 1] will do.
        prompts: a JSONL file, or the prompts. Those without a `kind` count as attacks; harmless ones among them keep
            the prefix from hurting harmless work.
        length: number of tokens of the prefix; None for that of `search`.
        judge: a second guard that chooses among the finalists; None takes the monitor itself.
        threshold: the monitor fires below it.
        out: the run's folder, in which a killed run can go on; None keeps nothing but what is returned.
        name: of the artifact.
        seed: of rollouts and search.
        contexts: how the states at which the monitor fires are collected.
        objective: what a prefix costs.
        search: how to search.
        selection: how finalists are chosen from.
        thought: where thinking opens and closes, where a step ends.
        sampling: how the reasoner's next token is chosen.
        limits: how long steps, traces and answers may get.
        batch_size: the most rows decoded at once.

    Returns:
        The artifact, to be handed to `SafeThink` or saved by `safethink.prefix.save`.

    Raises:
        SafeThinkError: there is nothing to learn from: too few prompts, a monitor that never fires; or two
            prompts have the same id.
    """
    config = SearchConfig(
        run=RunConfig(
            reasoner=ReasonerConfig(path=_short(model.name_or_path) if model.name_or_path else type(model).__name__),
            defense=SafeThinkConfig(threshold=threshold),
            thought=thought,
            sampling=sampling,
            limits=limits,
            batch_size=batch_size,
            seed=seed,
        ),
        contexts=contexts,
        objective=objective,
        search=search if length is None else search.model_copy(update={"length": length}),
        selection=selection,
        name=name,
        seed=seed,
    )
    if isinstance(prompts, str | Path):
        data = splits.of_file(Path(prompts))
    else:
        named = [as_prompt(prompt) for prompt in prompts]
        refuse_duplicates(named)
        data = splits.of_prompts(named)
    watching = as_monitor(monitor)
    chooser = _guard_chooser(judge, watching, threshold)
    with frozen(model), tempfile.TemporaryDirectory() as scratch:
        guarded = _guard(model, tokenizer, watching, config.run)
        return run(config, guarded, data, chooser, _identity(monitor), Path(scratch if out is None else out))


def _check_world(config: SearchConfig) -> None:
    """Refuse a world whose dynamics the shipped reasoner does not have."""
    if is_testbed(config.run.reasoner.path):
        require_world(config.world.seed)


def _guard(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, monitor: Monitor, config: RunConfig
) -> SafeThink:
    return SafeThink(
        model,
        tokenizer,
        monitor=monitor,
        thought=config.thought,
        sampling=config.sampling,
        limits=config.limits,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def _guard_chooser(judge: MonitorLike | None, monitor: Monitor, threshold: float) -> MonitorJudge:
    """A second guard where one is given, else the monitor itself."""
    if judge is None:
        return MonitorJudge(monitor, threshold, "the monitor itself")
    return MonitorJudge(as_monitor(judge), threshold, f"a second guard: {_identity(judge).name}")


def _identity(monitor: MonitorLike) -> Identity:
    match monitor:
        case str():
            return Identity(name=_short(monitor))
        case GuardMonitorConfig():
            return Identity(name=_short(monitor.path), revision=monitor.revision)
        case OracleMonitorConfig() | ConstantMonitorConfig():
            return Identity(name=monitor.kind)
        case _:
            return Identity(name=getattr(monitor, "__name__", type(monitor).__name__))


def _short(path: str) -> str:
    """A hub id as it is, a folder without the machine's path to it."""
    return Path(path).resolve().name if Path(path).is_dir() else path
