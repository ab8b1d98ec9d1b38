"""Finds candidates for a prefix: a search over contexts, in rounds where the contexts are to stay on policy.

A round searches over fixed contexts. Between two rounds the contexts are refreshed with the best prefix so far, and the
next round starts from it. Every round says how well its training loss ranks what really happens: a few candidates from
all over its archive are injected once at its own contexts, and whoever chooses later says what recovered. Where a soft
prefix is to be hardened, that is the last stage.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from optimize.config import MethodConfig, SearchConfig, SoftConfig
from optimize.contexts import ContextSet
from optimize.contexts.refresh import refresh
from optimize.contexts.watching import Watched, scores
from optimize.pipeline.searches import Hardening, Problem, build_search
from optimize.pipeline.setup import Setup
from optimize.search.journal import LOG
from optimize.search.method import Archive, Ids
from optimize.search.vocabulary import Vocabulary
from optimize.selection.metrics import rank_correlation
from optimize.selection.trials import Arena
from optimize.soft.module import TokenEmbeddings
from safethink.defenses import drops_prefix
from safethink.files import write_text
from safethink.prefix import Metric
from safethink.progress import progress
from safethink.tokens import is_soft

logger = logging.getLogger(__name__)

ROUNDS, CONTEXTS, MEASURED = "rounds", "contexts.json", "measured.json"
HARD = "hard"
"""Name of the stage in which a soft prefix is hardened."""


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
    _warn_of_lost_init(vocabulary, start, config.search)
    sections, hardens = _rounds(config), isinstance(config.search, SoftConfig) and config.search.harden
    has_stages = hardens or len(sections) > 1
    archive, winners = Archive(), list[Ids]()
    for index, section in enumerate(sections):
        place = out / ROUNDS / str(index) if has_stages else out
        place.mkdir(parents=True, exist_ok=True)
        if index:
            contexts = _refreshed(config, setup, contexts, winners[-1], index, place)
        problem = Problem(config, setup, arena, contexts, vocabulary, start, tuple(winners))
        archive = build_search(section, problem).run(problem.journal(place, section))
        _measure(config, setup, arena, contexts, archive, index, place)
        best = archive.ranked(section.shortest)[0]
        start = best[: section.length]
        winners.append(best)
    soft = winners[-1] if hardens else None
    if soft is not None:
        place = out / ROUNDS / HARD
        place.mkdir(parents=True, exist_ok=True)
        problem = Problem(config, setup, arena, contexts, vocabulary, soft)
        hardening = Hardening.of(problem)
        archive = hardening.run(problem.journal(place, hardening.section))
    if has_stages:
        _join_logs(out, [*range(len(sections)), *([HARD] if hardens else [])])
    ranked = archive.ranked(config.search.shortest)
    return Found(ranked, archive.costs, contexts, out / LOG, partial(_text, setup, vocabulary), soft)


def _warn_of_lost_init(vocabulary: Vocabulary, start: Ids, section: MethodConfig) -> None:
    """Say it where a search over tokens cannot begin with its init, and why: it begins with random tokens then."""
    if not start or any(map(is_soft, start)) or isinstance(section, SoftConfig):
        return
    # Of an init that is to be filled up, nobody knows yet what follows it.
    words = vocabulary if len(start) == section.length else vocabulary.unseparated()
    if complaint := words.complaint(start):
        text = vocabulary.text(start)
        logger.warning("search.init: %r is lost, and the search begins elsewhere: %s", text, complaint)


def _rounds(config: SearchConfig) -> list[MethodConfig]:
    """The search's section for each round: its share of the steps, and of the budget."""
    every, whole = config.contexts.refresh_every_steps or config.search.steps, config.search
    steps = [min(every, whole.steps - begun) for begun in range(0, whole.steps, every)]
    budget = whole.budget_tokens
    budgets = [None if budget is None else max(1, budget * share // whole.steps) for share in steps]
    return [whole.replace(steps=share, budget_tokens=tokens) for share, tokens in zip(steps, budgets, strict=True)]


def _text(setup: Setup, vocabulary: Vocabulary, ids: Sequence[int]) -> str:
    if not any(map(is_soft, ids)):
        return vocabulary.text(ids)
    engine = setup.guarded.local_engine
    return vocabulary.text(TokenEmbeddings(engine, vocabulary.allowed).nearest(engine.rows(ids)))


def _refreshed(
    config: SearchConfig, setup: Setup, contexts: ContextSet, best: Ids, index: int, place: Path
) -> ContextSet:
    """The round's contexts, from an earlier start of this run or collected now."""
    path = place / CONTEXTS
    if not path.exists():
        fresh = refresh(
            setup.guarded,
            setup.data[0],
            contexts,
            best,
            config.contexts,
            setup.source.threshold,
            index,
            keep_prefix=not drops_prefix(config.run.defense),
        )
        fresh.save(path)
    return ContextSet.load(path)


def _measure(
    config: SearchConfig,
    setup: Setup,
    arena: Arena,
    contexts: ContextSet,
    archive: Archive,
    index: int,
    place: Path,
) -> None:
    """Write down how well the round's loss ranks recovery, over candidates from all over the archive."""
    path, count = place / MEASURED, config.selection.measured
    if path.exists() or not count:
        return
    ranked = archive.ranked()
    some = ranked[:: max(1, len(ranked) // count)][:count]
    costs = [archive.costs[ids] for ids in some]
    shares = [_shares(setup, arena, contexts, ids) for ids in progress(some, "measuring candidates")]
    correlation = rank_correlation(costs, [share["recovered"] for share in shares])
    for metric in correlation.values():
        _warn_of_misleading_loss(metric, index)
    measured = {
        "round": index,
        "contexts": contexts.fingerprint,
        "judged_by": setup.chooser.name,
        "candidates": [
            {"prefix_ids": ids, "cost": cost, **share, "n": len(contexts.unsafe)}
            for ids, cost, share in zip(some, costs, shares, strict=True)
        ],
        **{name: metric.model_dump() for name, metric in correlation.items()},
    }
    write_text(path, json.dumps(measured, indent=2) + "\n")


def _shares(setup: Setup, arena: Arena, contexts: ContextSet, ids: Ids) -> dict[str, float]:
    """Shares of a round's contexts that one injection puts right, by the chooser and by the monitor."""
    results = replace(arena, samples=1).inject(contexts.unsafe, ids)
    passed = [score >= arena.threshold for score in scores(setup.guarded, [Watched.of(result) for result in results])]
    recovered = arena.judged_safe(results)
    return {"recovered": sum(recovered) / len(recovered), "solved_by_monitor": sum(passed) / len(passed)}


def _warn_of_misleading_loss(correlation: Metric, index: int) -> None:
    """Say it where what costs more recovers more, by the whole of the interval: a search then goes the wrong way."""
    if correlation.low > 0:
        logger.warning(
            "round %d: the loss is no guide to recovery here: their rank correlation over %d candidates is %+.2f "
            "(%+.2f to %+.2f), and below 0 where it is one; `search.kind: phrases` goes by recovery itself",
            index,
            correlation.n,
            correlation.value,
            correlation.low,
            correlation.high,
        )


def _join_logs(out: Path, stages: Sequence[int | str]) -> None:
    """One log of all rounds, as the artifact has it."""
    logs = ((stage, out / ROUNDS / str(stage) / LOG) for stage in stages)
    lines = [
        json.dumps({"round": stage} | json.loads(line))
        for stage, log in logs
        for line in log.read_text(encoding="utf-8").splitlines()
    ]
    write_text(out / LOG, "".join(f"{line}\n" for line in lines))
