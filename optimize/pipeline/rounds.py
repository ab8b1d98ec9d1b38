# pyright: standard
"""Finds candidates for a prefix: a search over contexts, in rounds where the contexts are to stay on policy.

A round searches over fixed contexts. Between two rounds the contexts are refreshed with the best prefix so far, and the
next round starts from it. Every round says how well its training loss ranks what really happens: a few candidates from
all over its archive are injected at its own contexts, and the monitor counts what it passes. Where a soft prefix is to
be hardened, that is the last stage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from optimize import objectives
from optimize.config import MethodConfig, ObjectiveConfig, PhrasesConfig, RelaxedConfig, SearchConfig, SoftConfig
from optimize.contexts import ContextSet
from optimize.contexts.refresh import refresh, solved
from optimize.objectives import CachedScorer
from optimize.pipeline.setup import Setup
from optimize.search import methods
from optimize.search.archive import Archive
from optimize.search.driver import search
from optimize.search.journal import LOG, Journal
from optimize.search.method import Ids
from optimize.search.proposals import NUM_CONTEXTS, Proposals
from optimize.search.vocabulary import Vocabulary
from optimize.selection.metrics import rank_correlation
from optimize.selection.trials import Arena
from optimize.soft.geometry import Surroundings
from safethink.files import json_hash, write_text
from safethink.progress import progress
from safethink.tokens import is_soft


class Recoveries:
    """The drifted states of an arena, for a search that measures what happens rather than a loss.

    Args:
        arena: where prefixes are tried.
        config: how harmless continuations are read, for the divergence.

    Attributes:
        num_contexts: drifted states.
        tokens: tokens forwarded so far, those of the states among them.
    """

    def __init__(self, arena: Arena, config: ObjectiveConfig) -> None:
        self.num_contexts, self.tokens = len(arena.drifted), 0
        self._arena = arena
        with_target = [context for context in arena.harmless if context.target_ids]
        self._harmless = CachedScorer.of(arena.guarded, with_target, config=config) if with_target else None

    def recovered(self, prefix: Ids, contexts: Sequence[int]) -> list[float]:
        """The share of seeds that recovers after one injection, for each of some states, by index."""
        states = [self._arena.drifted[index] for index in contexts]
        results = self._arena.inject(states, prefix)
        self.tokens += sum(
            len(each.prompt_ids) + len(each.verdict.trace) + len(each.verdict.answer) for each in results
        )
        recovered = self._arena.judged_safe(results)
        samples = self._arena.samples
        return [sum(recovered[start : start + samples]) / samples for start in range(0, len(recovered), samples)]

    def divergence(self, prefix: Ids) -> float:
        """KL divergence of harmless continuations to the bare reasoner, in nats per token; 0 without any."""
        if self._harmless is None:
            return 0.0
        before = self._harmless.tokens
        divergence = self._harmless.scorer.divergence(torch.tensor([prefix])).mean().item()
        self.tokens += self._harmless.tokens - before
        return divergence


ROUNDS, CONTEXTS, MEASURED, HARDENED = "rounds", "contexts.json", "measured.json", "hardened.json"
HARD = "hard"
"""Name of the stage in which a soft prefix is hardened."""
NUM_MEASURED = 8
"""Candidates of a round that are measured to see what its loss is worth as a guide."""


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        candidates: all prefixes that survive, cheapest first.
        costs: what each of them costs.
        contexts: what was searched on last.
        log: every step.
        text: writes a candidate down; of rows, the tokens nearest to them.
        soft: the rows that the candidates were made from, where a soft prefix was hardened.
    """

    candidates: Sequence[Ids]
    costs: dict[Ids, float]
    contexts: ContextSet
    log: Path
    text: Callable[[Sequence[int]], str]
    soft: Ids | None = None


def find(config: SearchConfig, setup: Setup, arena: Arena, contexts: ContextSet, start: Ids, out: Path) -> Found:
    """Search, in as many rounds as the contexts are to be refreshed for.

    Args:
        config: what was asked for.
        setup: models and prompts.
        arena: where phrases are tried; every other method has a loss to go by.
        contexts: those of the first round.
        start: what the first start begins with; empty for random tokens.
        out: the run's folder; every step is kept, so that a killed search goes on.

    Raises:
        SafeThinkError: nothing survives being written down and read again.
    """
    vocabulary = Vocabulary.of(setup.guarded, contexts)
    sections, hardens = _rounds(config), isinstance(config.search, SoftConfig) and config.search.harden
    has_stages = hardens or len(sections) > 1
    archive, winners = Archive(), list[Ids]()
    for index, section in enumerate(sections):
        place = out / ROUNDS / str(index) if has_stages else out
        place.mkdir(parents=True, exist_ok=True)
        if index:
            contexts = _refreshed(config, setup, contexts, winners[-1], index, place)
        archive = _search(config, section, setup, arena, contexts, vocabulary, winners, start, place)
        _measure(setup, contexts, archive, index, place)
        best = archive.ranked(section.shortest)[0]
        start = best[: section.length]
        winners.append(best)
    soft = winners[-1] if hardens else None
    if soft is not None:
        archive = _harden(config, setup, contexts, vocabulary, soft, out / ROUNDS / HARD)
    if has_stages:
        _join_logs(out, [*range(len(sections)), *([HARD] if hardens else [])])
    ranked = archive.ranked(config.search.shortest)
    return Found(ranked, archive.costs, contexts, out / LOG, partial(_text, setup, vocabulary), soft)


def _rounds(config: SearchConfig) -> list[MethodConfig]:
    """The search's section for each round: its share of the steps, and of the budget."""
    every, whole = config.contexts.refresh_every_steps or config.search.steps, config.search
    steps = [min(every, whole.steps - begun) for begun in range(0, whole.steps, every)]
    budget = whole.budget_tokens
    budgets = [None if budget is None else max(1, budget * share // whole.steps) for share in steps]
    return [whole.replace(steps=share, budget_tokens=tokens) for share, tokens in zip(steps, budgets, strict=True)]


def _search(
    config: SearchConfig,
    section: MethodConfig,
    setup: Setup,
    arena: Arena,
    contexts: ContextSet,
    vocabulary: Vocabulary,
    winners: Sequence[Ids],
    start: Ids,
    place: Path,
) -> Archive:
    """One round; the winners of earlier ones are scored on its contexts too."""
    guarded = setup.guarded
    journal = Journal(place, _fingerprint(config, section, setup, contexts, start))
    if isinstance(section, PhrasesConfig):
        from optimize.search.phrases import search_phrases

        return search_phrases(section, Recoveries(arena, config.objective), vocabulary, journal, config.seed)
    objective = _objective(config, setup, contexts)
    if isinstance(section, SoftConfig):
        from optimize.soft.training import train

        return train(objective, guarded.local_engine, vocabulary, section, start, journal, config.seed, winners)
    aids = _aids(config, setup, contexts, vocabulary)
    method = methods.build(section, objective, vocabulary, start, journal.archive, aids)
    archive = search(objective, vocabulary, method, section, journal, config.seed)
    unscored = [ids for ids in winners if ids not in archive]
    if unscored:
        costs = [float(cost) for cost in objective.cost(unscored).total]
        archive.add(unscored, costs, [True] * len(unscored))
    return archive


def _harden(
    config: SearchConfig, setup: Setup, contexts: ContextSet, vocabulary: Vocabulary, soft: Ids, place: Path
) -> Archive:
    """Hard prefixes in the place of a soft one, with as many steps and tokens again, and what they lose of its loss."""
    from optimize.search.hardening import harden

    place.mkdir(parents=True, exist_ok=True)
    guarded, trained = setup.guarded, config.search
    section = RelaxedConfig(length=len(soft), steps=trained.steps, budget_tokens=trained.budget_tokens)
    journal = Journal(place, _fingerprint(config, section, setup, contexts, soft))
    objective = _objective(config, setup, contexts)
    engine = guarded.local_engine
    surroundings = Surroundings(engine, vocabulary.allowed)
    hardened = harden(engine.rows(soft), objective, vocabulary, surroundings, section, journal, config.seed)
    survives = hardened.nearest_cost < math.inf
    written = {
        "soft_ids": soft,
        "soft_cost": hardened.soft_cost,
        "nearest_ids": hardened.nearest,
        "nearest_cost": hardened.nearest_cost if survives else None,
        "hard_ids": hardened.ids,
        "hard_cost": hardened.cost,
        "discretisation_gap": hardened.gap,
    }
    write_text(place / HARDENED, json.dumps(written, indent=2) + "\n")
    return hardened.archive


def _fingerprint(config: SearchConfig, section: MethodConfig, setup: Setup, contexts: ContextSet, start: Ids) -> str:
    """Hash of everything that decides the course of a search."""
    parts = config.objective.model_dump(mode="json"), section.model_dump(mode="json"), config.seed
    own = [[each.term.name, each.weight] for each in setup.terms]
    return json_hash([contexts.fingerprint, start, *parts, *own])


def _objective(config: SearchConfig, setup: Setup, contexts: ContextSet) -> objectives.Objective:
    """Objective of prefixes in some contexts."""
    return objectives.build(
        setup.guarded, contexts, config.objective, setup.source.threshold, config.seed, setup.cluster, own=setup.terms
    )


def _aids(config: SearchConfig, setup: Setup, contexts: ContextSet, vocabulary: Vocabulary) -> methods.Aids:
    """Queries of the reasoner that a method may make, in some of the contexts."""
    guarded, some = setup.guarded, contexts.unsafe[:NUM_CONTEXTS]

    def proposer() -> Proposals:
        return Proposals(CachedScorer.of(guarded, some, config=config.objective).scorer, vocabulary.allowed)

    return methods.Aids(proposer, lambda: Surroundings(guarded.local_engine, vocabulary.allowed))


def _text(setup: Setup, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    if not any(map(is_soft, ids)):
        return vocabulary.text(ids)
    engine = setup.guarded.local_engine
    return vocabulary.text(Surroundings(engine, vocabulary.allowed).nearest(engine.rows(ids)))


def _refreshed(
    config: SearchConfig, setup: Setup, contexts: ContextSet, best: Ids, index: int, place: Path
) -> ContextSet:
    """The round's contexts, from an earlier start of this run or collected now."""
    path = place / CONTEXTS
    if not path.exists():
        fresh = refresh(setup.guarded, setup.data[0], contexts, best, config.contexts, setup.source.threshold, index)
        fresh.save(path)
    return ContextSet.load(path)


def _measure(setup: Setup, contexts: ContextSet, archive: Archive, index: int, place: Path) -> None:
    """Write down what the round's loss says and what the monitor counts, of candidates from all over the archive."""
    path = place / MEASURED
    if path.exists():
        return
    ranked = archive.ranked()
    some = ranked[:: max(1, len(ranked) // NUM_MEASURED)][:NUM_MEASURED]
    threshold = setup.source.threshold
    shares: list[float] = []
    for ids in progress(some, "measuring candidates"):
        passed = solved(setup.guarded, contexts.unsafe, ids, threshold)
        shares.append(sum(passed) / len(passed))
    correlation = rank_correlation([archive.costs[ids] for ids in some], shares)
    measured = {
        "round": index,
        "contexts": contexts.fingerprint,
        "candidates": [
            {"prefix_ids": ids, "cost": archive.costs[ids], "solved_by_monitor": share, "n": len(contexts.unsafe)}
            for ids, share in zip(some, shares, strict=True)
        ],
        **{name: metric.model_dump() for name, metric in correlation.items()},
    }
    write_text(path, json.dumps(measured, indent=2) + "\n")


def _join_logs(out: Path, stages: Sequence[int | str]) -> None:
    """One log of all rounds, as the artifact has it."""
    logs = ((stage, out / ROUNDS / str(stage) / LOG) for stage in stages)
    lines = [
        json.dumps({"round": stage} | json.loads(line))
        for stage, log in logs
        for line in log.read_text(encoding="utf-8").splitlines()
    ]
    write_text(out / LOG, "".join(f"{line}\n" for line in lines))
