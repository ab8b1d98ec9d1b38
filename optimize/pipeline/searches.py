# pyright: standard
"""Searches ready to run: the method that the configuration names, over one set of contexts.

`build_search` picks by the section; whatever it gives is run with a journal and leaves an archive of candidates.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from optimize import objectives
from optimize.config import (
    MethodConfig,
    ObjectiveConfig,
    PhrasesConfig,
    ReflectConfig,
    RelaxedConfig,
    SearchConfig,
    SoftConfig,
)
from optimize.contexts import Context, ContextSet
from optimize.objectives import CachedScorer
from optimize.pipeline.setup import Setup
from optimize.search import methods
from optimize.search.driver import search
from optimize.search.journal import Journal
from optimize.search.method import Archive, Ids
from optimize.search.proposals import NUM_CONTEXTS, Proposals
from optimize.search.vocabulary import Vocabulary
from optimize.search.writer import ChatWriter
from optimize.selection.trials import Arena
from optimize.soft.module import TokenEmbeddings
from safethink.files import json_hash, write_text
from safethink.thinking.format import Thought
from safethink.thinking.reading import trace_text
from safethink.tokens import Tokens

logger = logging.getLogger(__name__)

HARDENED = "hardened.json"


@dataclass(frozen=True)
class Problem:
    """The problem that a search solves: a prefix for a set of contexts.

    Attributes:
        config: what was asked for.
        setup: models and prompts.
        arena: where phrases are tried; None where there is none, as every other method has a loss to go by.
        contexts: what the prefix is injected into.
        vocabulary: what it may be made of.
        start: what the first start begins with; empty for random tokens. Of a hardening, the soft prefix.
        winners: prefixes of earlier rounds, to be scored here too.
    """

    config: SearchConfig
    setup: Setup
    arena: Arena | None
    contexts: ContextSet
    vocabulary: Vocabulary
    start: Ids
    winners: tuple[Ids, ...] = ()

    def objective(self) -> objectives.Objective:
        """Objective of prefixes in the contexts."""
        setup = self.setup
        return objectives.build(
            setup.guarded,
            self.contexts,
            self.config.objective,
            setup.source.threshold,
            self.config.seed,
            setup.cluster,
            own=setup.terms,
        )

    def journal(self, folder: Path, section: MethodConfig) -> Journal:
        """Journal, in `folder`, of a search with the settings `section`; any other search's is refused."""
        settings: dict[str, object] = {
            "contexts": self.contexts.fingerprint,
            "start": self.start,
            "objective": self.config.objective.model_dump(mode="json"),
            "search": section.model_dump(mode="json"),
            "seed": self.config.seed,
        }
        own = [[weighted.term.name, weighted.weight] for weighted in self.setup.terms]
        return Journal(folder, json_hash([*settings.values(), *own]), settings | {"terms": own})


@runtime_checkable
class Search(Protocol):
    """A search that is ready to run."""

    def run(self, journal: Journal) -> Archive:
        """Search until the budget is spent, or go on with what the journal holds.

        Raises:
            SafeThinkError: nothing survives being written down and read again, or the journal is another search's.
        """
        ...


def build_search(section: MethodConfig, problem: Problem) -> Search:
    """The search that a section of the configuration names; nothing is computed before it runs."""
    match section:
        case PhrasesConfig():
            return PhraseSearch(section, problem)
        case SoftConfig():
            return SoftSearch(section, problem)
        case _:
            return DiscreteSearch(section, problem)


@dataclass(frozen=True)
class DiscreteSearch:
    """Search over token ids by a method that proposes candidates."""

    section: MethodConfig
    problem: Problem

    def run(self, journal: Journal) -> Archive:
        """Search; the winners of earlier rounds are scored too."""
        problem, objective = self.problem, self.problem.objective()
        vocabulary, archive = problem.vocabulary, journal.archive
        method = methods.build(self.section, objective, vocabulary, problem.start, archive, self._aids())
        archive = search(objective, vocabulary, method, self.section, journal, problem.config.seed)
        unscored = [ids for ids in problem.winners if ids not in archive]
        if unscored:
            # One by one: in a race of several most would be scored in a few contexts only.
            costs = [objective.cost([ids]).total.item() for ids in unscored]
            archive.add(unscored, costs, [True] * len(unscored))
        return archive

    def _aids(self) -> methods.ReasonerAccess:
        """Queries of the reasoner that a method may make, in some of the contexts."""
        guarded, config, allowed = self.problem.setup.guarded, self.problem.config, self.problem.vocabulary.allowed
        some = self.problem.contexts.unsafe[:NUM_CONTEXTS]

        def proposer() -> Proposals:
            return Proposals(CachedScorer.of(guarded, some, config=config.objective).scorer, allowed)

        targets = tuple(context.target_ids for context in self.problem.contexts.unsafe)
        aids = methods.ReasonerAccess(proposer, lambda: TokenEmbeddings(guarded.local_engine, allowed), targets)
        if not isinstance(self.section, ReflectConfig):
            return aids
        traces = failed_traces(guarded.thought, self.problem.contexts.unsafe, self.section.trace_tokens)
        return replace(aids, writer=partial(ChatWriter.of, guarded, self.section), traces=traces)


def failed_traces(thought: Thought, contexts: Sequence[Context], max_tokens: int) -> tuple[str, ...]:
    """The ends of traces whose last step made the monitor fire, each on one line; the prompts are no part of them.

    Args:
        thought: the format of the reasoner's thinking.
        contexts: where the monitor fired.
        max_tokens: the most tokens of an end.
    """
    ends = ((context.trace_ids + context.step_ids)[-max_tokens:] for context in contexts)
    return tuple(" ".join(trace_text(thought, Tokens.sampled(ids)).split()) for ids in ends)


@dataclass(frozen=True)
class SoftSearch:
    """Training of embedding rows by AdamW."""

    section: SoftConfig
    problem: Problem

    def run(self, journal: Journal) -> Archive:
        """Train; the winners of earlier rounds are scored too."""
        # Imported where it is asked for: it needs Lightning.
        from optimize.soft.training import train

        problem, engine = self.problem, self.problem.setup.guarded.local_engine
        objective, seed = problem.objective(), problem.config.seed
        return train(objective, engine, problem.vocabulary, self.section, problem.start, journal, seed, problem.winners)


@dataclass(frozen=True)
class PhraseSearch:
    """Trial of whole phrases, by what they recover."""

    section: PhrasesConfig
    problem: Problem

    def run(self, journal: Journal) -> Archive:
        """Try the phrases."""
        # Imported where it is asked for: it needs Optuna.
        from optimize.search.phrases import search_phrases

        # What recovers is measured with prefix and separator encoded as one text.
        config, vocabulary = self.problem.config, self.problem.vocabulary.unseparated()
        _warn_of_lost_phrases(vocabulary, self.section)
        measured = Recoveries(self._arena(), config.objective)
        return search_phrases(self.section, measured, vocabulary, journal, config.seed)

    def _arena(self) -> Arena:
        """The states on which phrases are tried."""
        problem, config = self.problem, self.problem.config
        if self.section.tried_on == "validation":
            assert problem.arena is not None, "phrases are tried somewhere"
            return problem.arena
        return problem.setup.arena(problem.contexts, config.selection, config.run.defense)


def _warn_of_lost_phrases(vocabulary: Vocabulary, section: PhrasesConfig) -> None:
    """Say which phrases of the pool cannot be tried, and why."""
    for text in section.pool:
        ids = vocabulary.ids(text)
        long = f"it has {len(ids)} tokens, search.length is {section.length}" if len(ids) > section.length else ""
        if complaint := long or vocabulary.complaint(ids):
            logger.warning("search.pool: %r is passed over: %s", text, complaint)


@dataclass(frozen=True)
class Hardening:
    """Search for a hard prefix in the place of a soft one, with as many steps and tokens again."""

    section: RelaxedConfig
    problem: Problem

    @classmethod
    def of(cls, problem: Problem) -> Hardening:
        """Hardening of the soft prefix that `problem` starts with."""
        trained = problem.config.search
        steps, budget = trained.steps, trained.budget_tokens
        return cls(RelaxedConfig(length=len(problem.start), steps=steps, budget_tokens=budget), problem)

    def run(self, journal: Journal) -> Archive:
        """Search, and write down beside the journal what the tokens lose of the rows' loss."""
        from optimize.search.relaxed import harden

        problem, engine = self.problem, self.problem.setup.guarded.local_engine
        rows, surroundings = engine.rows(problem.start), TokenEmbeddings(engine, problem.vocabulary.allowed)
        objective, seed = problem.objective(), problem.config.seed
        hardened = harden(rows, objective, problem.vocabulary, surroundings, self.section, journal, seed)
        survives = hardened.nearest_cost < math.inf
        written = {
            "soft_ids": problem.start,
            "soft_cost": hardened.soft_cost,
            "nearest_ids": hardened.nearest,
            "nearest_cost": hardened.nearest_cost if survives else None,
            "hard_ids": hardened.ids,
            "hard_cost": hardened.cost,
            "discretisation_gap": hardened.gap,
        }
        write_text(journal.log.with_name(HARDENED), json.dumps(written, indent=2) + "\n")
        return hardened.archive


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
        for result in results:
            self.tokens += len(result.prompt_ids) + len(result.verdict.trace) + len(result.verdict.answer)
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
