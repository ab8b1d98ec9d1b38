"""Learns a corrective prefix: contexts, search, selection, artifact. Every stage resumes from what it wrote."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from optimize import metrics, objectives
from optimize.card import card
from optimize.choosers import Chooser
from optimize.config import GcgConfig, SearchConfig
from optimize.contexts import ContextSet, collect_search, collect_validation
from optimize.search.gcg import gcg
from optimize.search.journal import Journal
from optimize.selection import Arena, choose, on_trial, run_trials
from optimize.splits import Split
from optimize.vocabulary import Vocabulary, allowed_ids, tails
from safethink import prefix as prefixes
from safethink import yaml_config
from safethink.config import SteeringConfig
from safethink.errors import ConfigError, SafeThinkError
from safethink.evaluation.records import write_text
from safethink.fingerprints import chat_template_hash, json_hash, model_hash, tokenizer_hash
from safethink.guarded import SafeThink
from safethink.monitors.guard import GuardMonitor
from safethink.prefix import Identity, Prefix, PrefixArtifact

logger = logging.getLogger(__name__)

Ids = tuple[int, ...]

CONFIG, SEARCH_CONTEXTS, VALIDATION_CONTEXTS = "config.yaml", "contexts-search.json", "contexts-validation.json"
TRIALS, ARTIFACT = "selection.jsonl", "artifact"
NOTHING: Ids = ()


def run(
    config: SearchConfig, guarded: SafeThink, data: tuple[Split, Split], chooser: Chooser, monitor: Identity, out: Path
) -> PrefixArtifact:
    """Learn a prefix and write its artifact; a run that was killed goes on where it stopped, to the same result.

    Args:
        config: what was asked for, complete.
        guarded: the reasoner with its monitor.
        data: the prompts to search on and those to choose on.
        chooser: judges the finalists.
        monitor: what the artifact calls the monitor.
        out: the run's folder.

    Raises:
        ConfigError: the folder was begun with another configuration, other prompts or other weights.
        SafeThinkError: there is nothing to learn from: the monitor never fires, or no prefix survives.
    """
    _claim(out, config)
    unlearned = _artifact(config, guarded, monitor)
    # Where does the monitor fire, and what would have been safe there?
    searched, validation = _contexts(config, guarded, data, unlearned, out)
    # Which prefixes make that likely?
    (init,), vocabulary = unlearned.prefixes, _vocabulary(guarded, searched)
    journal = Journal(out, _fingerprint(config, searched, init))
    objective = objectives.build(guarded.model, guarded.thought, searched, config.objective)
    state = gcg(objective, vocabulary, config.search, init.token_ids, journal, config.seed)
    candidates = on_trial(state.ranked(), config.selection)
    if not candidates:
        raise SafeThinkError(f"no prefix of {config.search.length} tokens is the same ids after being read again")
    # Which of them works?
    arena = Arena.build(guarded, chooser, validation, config.selection, threshold_of(config))
    nothing, first, *trials = run_trials(arena, [NOTHING, init.token_ids, *candidates], out / TRIALS)
    recoveries = [arena.recovery(trial).value for trial in trials]
    losses = [arena.forced_loss(trial, nothing) for trial in trials]
    chosen = trials[choose(recoveries, losses, config.selection.max_forced_loss)]
    # What must be written down to use it and to check it?
    measured = metrics.of_trial(arena, chosen, nothing, first, config.seed)
    measured |= metrics.rank_correlation([state.visited[ids] for ids in candidates], recoveries)
    measured |= metrics.of_search(searched, journal.log)
    learned = {
        "prefixes": (Prefix(text=vocabulary.text(chosen.prefix_ids), token_ids=chosen.prefix_ids),),
        "data_fingerprint": json_hash([searched.fingerprint, validation.fingerprint]),
        "selected_by": chooser.name,
        "metrics": measured,
    }
    artifact = unlearned.model_copy(update=learned)
    return prefixes.save(artifact, out / ARTIFACT, journal.log, card(artifact))


def threshold_of(config: SearchConfig) -> float:
    """Below what the monitor fires.

    Raises:
        ConfigError: the defense has no threshold.
    """
    if not isinstance(config.run.defense, SteeringConfig):
        raise ConfigError(
            f"run.defense: {config.run.defense.kind!r} has no threshold; a search needs one, as safethink has"
        )
    return config.run.defense.threshold


def _claim(out: Path, config: SearchConfig) -> None:
    """Write the configuration down, or check that the folder was begun with the same one."""
    out.mkdir(parents=True, exist_ok=True)
    text = yaml_config.dump(config)
    path = out / CONFIG
    # A run that stopped before it had any contexts, at a misspelt path for instance, has no claim to the folder.
    begun = (out / SEARCH_CONTEXTS).exists() and path.exists()
    if begun and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{path}: the run was begun with another configuration; give a fresh --out")
    write_text(path, text)


def _artifact(config: SearchConfig, guarded: SafeThink, monitor: Identity) -> PrefixArtifact:
    """What is known of the artifact before anything is learned; it holds the prefix that the search starts from."""
    reasoner, world = config.run.reasoner, config.world
    name = Identity(name=reasoner.path, revision=reasoner.revision)
    if isinstance(guarded.monitor, GuardMonitor):
        monitor = monitor.model_copy(update={"sha256": guarded.monitor.fingerprint})
    return PrefixArtifact(
        name=config.name,
        prefixes=(_init(guarded, config.search),),
        reasoner=name.model_copy(update={"sha256": model_hash(guarded.model)}),
        tokenizer=name.model_copy(update={"sha256": tokenizer_hash(guarded.tokenizer)}),
        chat_template=name.model_copy(update={"sha256": chat_template_hash(guarded.tokenizer)}),
        monitor=monitor,
        threshold=threshold_of(config),
        seeds={"search": config.seed, "run": config.run.seed, "world": world.seed, "prompts": world.prompts_seed},
        config=config.model_dump(mode="json"),
    )


def _contexts(
    config: SearchConfig, guarded: SafeThink, data: tuple[Split, Split], made_with: PrefixArtifact, out: Path
) -> tuple[ContextSet, ContextSet]:
    """Contexts to search on and contexts to choose on."""
    threshold, num_attacks = threshold_of(config), config.contexts.prompts
    search = data[0].first(num_attacks, config.contexts.harmless_prompts)
    validation = data[1].first(num_attacks, config.selection.forced_prompts)
    models = [identity.sha256 if identity else None for identity in (made_with.reasoner, made_with.monitor)]
    return (
        _cached(
            out / SEARCH_CONTEXTS,
            json_hash([search.fingerprint, *models]),
            lambda: collect_search(guarded, search, config.contexts, threshold),
        ),
        _cached(
            out / VALIDATION_CONTEXTS,
            json_hash([validation.fingerprint, *models]),
            lambda: collect_validation(guarded, validation, config.contexts, threshold),
        ),
    )


def _cached(path: Path, source: str, collect: Callable[[], ContextSet]) -> ContextSet:
    """Contexts from an earlier start of this run, or collected now."""
    if not path.exists():
        collect().model_copy(update={"source": source}).save(path)
    contexts = ContextSet.load(path)
    if contexts.source != source:
        raise ConfigError(f"{path}: collected on other prompts or with other weights; give a fresh --out")
    return contexts


def _init(guarded: SafeThink, config: GcgConfig) -> Prefix:
    built_in = config.init in prefixes.list_built_in()
    init = guarded.bind(config.init if built_in else prefixes.LITERAL + config.init).prefixes[0]
    if len(init.token_ids) > config.length:
        logger.warning(
            "init %r has %d tokens; the search starts from its first %d", init.text, len(init.token_ids), config.length
        )
    return init


def _vocabulary(guarded: SafeThink, contexts: ContextSet) -> Vocabulary:
    thought = guarded.thought.config
    banned = (thought.open_tag, thought.close_tag, thought.step_delimiter)
    allowed = allowed_ids(guarded.tokenizer, guarded.model, banned)
    endings = tails(guarded.tokenizer, [context.ids for context in contexts.unsafe + contexts.harmless])
    return Vocabulary(guarded.tokenizer, allowed, endings, banned, thought.prefix_separator)


def _fingerprint(config: SearchConfig, contexts: ContextSet, init: Prefix) -> str:
    """What decides the course of a search."""
    parts = config.objective.model_dump(mode="json"), config.search.model_dump(mode="json"), config.seed
    return json_hash([contexts.fingerprint, init.token_ids, *parts])
