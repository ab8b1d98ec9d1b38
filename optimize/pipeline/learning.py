"""Learns a corrective prefix: contexts, search, selection, artifact. Every stage resumes from what it wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optimize.config import MethodConfig, PhrasesConfig, SearchConfig, SoftConfig
from optimize.contexts import ContextSet, folder
from optimize.contexts.folder import Manifest
from optimize.pipeline.rounds import ROUNDS, Found, find
from optimize.pipeline.setup import Setup, portable
from optimize.publishing.model_card import card
from optimize.search.journal import LOG
from optimize.search.method import start_ids
from optimize.search.phrases import Grammar
from optimize.selection import metrics, portfolio
from optimize.selection.trials import Arena, Trial, on_trial, run_trials
from safethink import errors
from safethink import prefix as prefixes
from safethink.config import yaml_config
from safethink.config.mismatch import refuse_other
from safethink.errors import ConfigError
from safethink.evaluation import numerics
from safethink.evaluation.numerics import RunNumerics
from safethink.files import json_hash, write_text
from safethink.guarded import SafeThink
from safethink.models.hashes import chat_template_hash, tokenizer_hash
from safethink.prefix import Metric, Prefix, PrefixArtifact, hub

Ids = tuple[int, ...]

CONFIG, CONTEXTS, TRIALS, ARTIFACT = "config.yaml", "contexts", "selection.jsonl", "artifact"
NOTHING: Ids = ()
FILE_ENDINGS = (".json", ".jsonl", ".safetensors", ".yaml", ".yml", ".txt", ".md")


def run(config: SearchConfig, setup: Setup, out: Path) -> PrefixArtifact:
    """Learn a prefix and write its artifact; a run that was killed goes on where it stopped, to the same result.

    Args:
        config: what was asked for, complete.
        setup: models, prompts and chooser.
        out: the run's folder.

    Raises:
        ConfigError: the folder was begun with another configuration, other prompts, other weights or other numerical
            settings, or a library that the search needs is not installed.
        SafeThinkError: there is nothing to learn from: the monitor never fires, or no prefix survives.
    """
    if isinstance(config.search, SoftConfig):
        errors.require("train", "lightning")
    if isinstance(config.search, PhrasesConfig):
        Grammar(config.search)  # No phrases are refused before anything is rolled out for them.
    guarded = setup.guarded
    config = config.replace(run=guarded.thought.complete(config.run))
    _claim(out, config, RunNumerics.of(guarded, config.run.batch_size))
    init = _init(guarded, config.search)
    start = start_ids(None if init is None else init.token_ids, config.search)
    # Where does the monitor fire, and what would have been safe there?
    manifest, searched, validation = _contexts(config, setup, out)
    arena = setup.arena(validation, config.selection, config.run.defense)
    # Which prefixes make that likely?
    found = find(config, setup, arena, searched, start, out)
    candidates = on_trial(found.candidates, config.selection)
    # Which of them works?
    tried = _try_out(config, arena, init, candidates, out)
    # What must be written down to use it and to check it?
    measured = _measured(config, arena, found, tried, out) | metrics.of_overlaps(manifest)
    learned = [Prefix(text=found.text(each.prefix_ids), token_ids=each.prefix_ids) for each in tried.members]
    artifact = _artifact(config, setup, learned)
    measured |= metrics.of_defense(arena, artifact, config.seed)
    artifact = artifact.replace(
        data_fingerprint=json_hash([found.contexts.fingerprint, validation.fingerprint]),
        selected_by=setup.chooser.name if config.selection.by == "judge" else "the monitor itself",
        metrics=measured,
        learned_on=() if config.on_testbed else tuple(sorted({each.words_hash for each in setup.prompts})),
    )
    return prefixes.save(artifact, out / ARTIFACT, found.log, card(artifact))


@dataclass(frozen=True)
class Tried:
    """Results of the finalists on validation.

    Attributes:
        nothing: the same states with nothing injected.
        init: with the prefix that the search began with; None for a random start.
        candidates: with each finalist, cheapest by training cost first.
        members: the portfolio, the best one first.
    """

    nothing: Trial
    init: Trial | None
    candidates: list[Trial]
    members: list[Trial]


def _try_out(config: SearchConfig, arena: Arena, init: Prefix | None, candidates: Sequence[Ids], out: Path) -> Tried:
    known = [NOTHING] if init is None else [NOTHING, init.token_ids]
    tried = run_trials(arena, [*known, *candidates], out / TRIALS)
    (nothing, *first), trials = tried[: len(known)], tried[len(known) :]
    members = portfolio.members(arena, trials, nothing, config.selection)
    return Tried(nothing, first[0] if first else None, trials, members)


def _measured(config: SearchConfig, arena: Arena, found: Found, tried: Tried, out: Path) -> dict[str, Metric]:
    chosen = tried.members[0]
    measured = metrics.of_recovery(arena, chosen, tried.nothing, tried.init, config.seed)
    measured |= metrics.of_forcing(arena, tried.members, tried.nothing, config.seed)
    measured |= metrics.of_portfolio(arena, tried.members, config.seed)
    # Phrases are searched by recovery itself: there is no loss that could be a guide to it.
    if not isinstance(config.search, PhrasesConfig):
        losses = [found.costs[trial.prefix_ids] for trial in tried.candidates]
        measured |= metrics.rank_correlation(losses, [arena.recovery(trial).value for trial in tried.candidates])
    measured |= metrics.of_search(found.contexts, found.log)
    if found.soft is not None:
        (trained,) = run_trials(arena, [found.soft], out / TRIALS)
        measured |= metrics.discretisation_gap(arena, trained, chosen, config.seed)
    return measured


def begun_with(out: Path) -> SearchConfig | None:
    """The configuration that the search in `out` was begun with; None where none was begun.

    A run that stopped before it had any contexts, at a misspelt path for instance, has no claim to the folder.
    """
    begun = any((out / name).exists() for name in (CONTEXTS, LOG, ROUNDS)) and (out / CONFIG).exists()
    return yaml_config.load(SearchConfig, out / CONFIG) if begun else None


def on_the_day_of(out: Path, config: SearchConfig) -> SearchConfig:
    """The configuration with the day on which the search in `out` was begun, where it says nothing of the day.

    A chat template may write the day down; a search that goes on overnight is still the same search.
    """
    path = out / CONFIG
    if not path.is_file():
        return config
    reasoner = config.run.reasoner.on_the_day_of(yaml_config.load(SearchConfig, path).run.reasoner)
    return config.replace(run=config.run.replace(reasoner=reasoner))


def _claim(out: Path, config: SearchConfig, made_with: RunNumerics | None) -> None:
    """Write configuration and numerics down, or check that the folder was begun with the same ones."""
    out.mkdir(parents=True, exist_ok=True)
    path, begun = out / CONFIG, begun_with(out)
    if begun is not None:
        refuse_other(path, begun, config)
    numerics.claim(out, made_with, begun is not None)
    write_text(path, yaml_config.dump(config))


def _artifact(config: SearchConfig, setup: Setup, learned: Sequence[Prefix]) -> PrefixArtifact:
    """Artifact of the learned prefixes: the models they are for, and how they were learned."""
    reasoner, world = setup.source.reasoner, config.world
    tokenizer = setup.guarded.tokenizer
    artifact = PrefixArtifact(
        name=config.name,
        prefixes=tuple(learned),
        reasoner=reasoner,
        tokenizer=reasoner.replace(sha256=tokenizer_hash(tokenizer)),
        chat_template=reasoner.replace(sha256=chat_template_hash(tokenizer)),
        monitor=setup.source.monitor,
        threshold=setup.source.threshold,
        seeds={"search": config.seed, "run": config.run.seed, "world": world.seed, "prompts": world.prompts_seed},
        config=portable(config.model_dump(mode="json")),
    )
    if not learned[0].is_soft:
        return artifact
    # In the precision that the search rounded them to.
    rows = [setup.guarded.local_engine.rows(each.token_ids).bfloat16() for each in learned]
    return artifact.with_rows(rows, [each.text for each in learned])


def _contexts(config: SearchConfig, setup: Setup, out: Path) -> tuple[Manifest, ContextSet, ContextSet]:
    """Contexts to search on and contexts to choose on: those of a shared folder, or the run's own."""
    if config.contexts.path is not None:
        return folder.load(Path(config.contexts.path), setup.source, setup.data)
    folder.collect(out / CONTEXTS, setup.guarded, setup.data, config.contexts, setup.source)
    return folder.load(out / CONTEXTS, setup.source, setup.data)


def initial_ids(guarded: SafeThink, config: MethodConfig) -> Ids:
    """Token ids that the first start of a search begins with; empty for a random start.

    Raises:
        ConfigError: `init` names nothing, or does not fit the search.
    """
    init = _init(guarded, config)
    return start_ids(None if init is None else init.token_ids, config)


def _init(guarded: SafeThink, config: MethodConfig) -> Prefix | None:
    """The prefix that the search starts from; None for a random start, or a method that begins nowhere."""
    if config.init is None or not config.begins_with_init:
        return None
    return guarded.bind(_prefix_of(config.init)).prefixes[0]


def _prefix_of(init: str) -> str:
    """Prefix source of `search.init`, as `prefix.load` reads it: a name, a folder or a place on the hub, else words.

    Raises:
        ConfigError: it looks like one of those, and there is none.
    """
    is_folder = os.path.isfile(os.path.join(init, prefixes.JSON_FILE))
    if is_folder or init in prefixes.list_built_in() or init.startswith(prefixes.LITERAL) or hub.parse(init):
        return init
    # Names have no blanks: words that resemble one, such as "Wait, think safely", are words.
    hint = "" if " " in init else yaml_config.did_you_mean(init, prefixes.list_built_in())
    if hint or os.sep in init or init.endswith(FILE_ENDINGS) or os.path.exists(init):
        raise ConfigError(
            f"search.init: {init!r} is no built-in prefix, no folder of an artifact and no OWNER/NAME@COMMIT on the hub"
            f"{hint or ';'} if it is words, write {prefixes.LITERAL + init!r}"
        )
    return prefixes.LITERAL + init
