# pyright: standard
"""The loop of every search: propose, sift, score, observe, write down.

One step:
    1. the method proposes candidates, with a generator that is seeded by the step alone;
    2. what was tried before is passed over, and what is not the same ids after being written down and read again is
       dropped, only as far down the list as is needed;
    3. the first `candidates` of the rest are scored, and the method observes those that no race dropped early;
    4. the journal keeps the step, so that a search killed at any moment goes on to the same result.

It ends when its steps or its tokens are spent, when nothing was found for `stop_after_steps` steps, or when the method
has nothing left to propose. Progress is a table on a terminal and plain lines elsewhere, always on stderr.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import torch

from optimize.config import MethodConfig, SearchSection
from optimize.objectives import Meter
from optimize.search.journal import Journal, SearchState
from optimize.search.method import Adaptive, Alphabet, Archive, Explaining, Ids, Method, OnPolicy, Priced, Scored
from safethink.errors import SearchError
from safethink.progress import PLAIN_INTERVAL_S
from safethink.seeds import stable_seed

BLOCK = 128
"""Candidates that are written down and read again at once."""
ROWS = 8
"""Steps in the table of a terminal."""

Show: TypeAlias = Callable[[dict[str, Any]], None]
"""Shows a finished step, given the log's line of it."""


def search(
    objective: Priced, vocabulary: Alphabet, method: Method, config: MethodConfig, journal: Journal, seed: int
) -> Archive:
    """Search until the budget is spent; a search that was killed goes on where it stopped, to the same result.

    Args:
        objective: what a prefix costs.
        vocabulary: what it may be made of.
        method: proposes; built on the journal's archive. Where it forwards tokens itself, it is a `Meter`.
        config: how wide, how often, how much.
        journal: keeps every step.
        seed: together with the kind of search and the step, seeds every draw.

    Returns:
        The journal's archive, in which something survives.

    Raises:
        SearchError: nothing that was looked at survives being written down and read again; or a cost is not finite.
        RecordError: the journal belongs to another search, or could not be written.
    """
    state, archive = journal.resume(), journal.archive
    on_policy = objective if isinstance(objective, OnPolicy) else None
    if state.step:
        method.load_state_dict(state.method)
    if state.step and on_policy is not None:
        on_policy.load_state_dict(state.objective)
    tokens_before = _tokens(objective, method) - state.tokens
    with _progress(config.steps, state.step) as show:
        while not is_over(state, config):
            generator = torch.Generator().manual_seed(stable_seed(config.kind, seed, state.step))
            state.policy = state.incumbent or state.policy
            if on_policy is not None and state.policy:
                on_policy.move_to(state.policy)
            num_to_score = _num_to_score(method, config)
            proposals = method.propose(generator)
            if not proposals:
                break
            _begin(state, method.state_dict().get("restart"))
            sifted = _sift(proposals, vocabulary, archive, num_to_score)
            before = state.cost.get("total")
            scored = _score(sifted.alive, objective, vocabulary, archive, state.incumbent)
            method.observe([candidate for candidate in scored if candidate.exact])
            state.tokens, state.method = _tokens(objective, method) - tokens_before, method.state_dict()
            state.objective = {} if on_policy is None else on_policy.state_dict()
            _advance(state, scored, config.shortest)
            line = _line(state, sifted, scored, before, vocabulary) | {"fingerprint": journal.fingerprint}
            journal.commit(state, line)
            show(line)
    if not archive.ranked(config.shortest):
        raise SearchError(
            f"the search ended before a prefix of {config.length} tokens was the same ids after being written down and "
            f"read again; {len(archive)} candidates were looked at{_reason(vocabulary, archive)}"
        )
    return archive


def _reason(vocabulary: Alphabet, archive: Archive) -> str:
    """Complaint about the first candidate that did not survive, where the alphabet says it."""
    dead = next((ids for ids, cost in archive.costs.items() if cost == math.inf), None)
    if dead is None or not isinstance(vocabulary, Explaining):
        return ""
    return f"; of the first, {vocabulary.text(dead)!r}, {vocabulary.complaint(dead)}"


def _tokens(objective: Priced, method: Method) -> int:
    """Tokens forwarded so far; something may be both, and counts once."""
    own = method.tokens if isinstance(method, Meter) and method is not objective else 0
    return objective.tokens + own


def _num_to_score(method: Method, config: SearchSection) -> int:
    """Number of candidates to score of the next proposals."""
    return min(method.num_to_score, config.candidates) if isinstance(method, Adaptive) else config.candidates


class _Sifted(NamedTuple):
    """Proposals of a step that pass the filters, and how many were dropped."""

    alive: list[Ids]
    looked_at: int
    dropped: int


def is_over(state: SearchState, config: SearchSection) -> bool:
    """Whether its steps or its tokens are spent, or nothing was found for as long as one is to wait."""
    steps, tokens, patience = config.steps, config.budget_tokens, config.stop_after_steps
    return (
        state.step >= steps
        or (tokens is not None and state.tokens >= tokens)
        or (patience is not None and state.step - state.improved >= patience)
    )


def _sift(proposals: Sequence[Ids], vocabulary: Alphabet, archive: Archive, limit: int) -> _Sifted:
    """The first `limit` proposals that were never tried and survive being written down and read again."""
    untried = _untried(proposals, archive)
    alive: list[Ids] = []
    looked_at = dropped = 0
    while len(alive) < limit and (block := list(islice(untried, BLOCK))):
        survives = dict(zip(block, vocabulary.survive(block), strict=True))
        dead = [ids for ids in block if not survives[ids]]
        archive.bury(dead)
        alive += [ids for ids in block if survives[ids]]
        looked_at, dropped = looked_at + len(block), dropped + len(dead)
    return _Sifted(alive[:limit], looked_at, dropped)


def _untried(proposals: Iterable[Ids], archive: Archive) -> Iterator[Ids]:
    """Each proposal that was never tried, once; one by one, because of many only the first are looked at."""
    seen: set[Ids] = set()
    for ids in proposals:
        if ids not in archive and ids not in seen:
            seen.add(ids)
            yield ids


def _begin(state: SearchState, restart: int | None) -> None:
    """Forget the incumbent where another start began."""
    if restart != state.restart:
        state.restart, state.incumbent, state.cost = restart, (), {}


def _score(
    candidates: Sequence[Ids], objective: Priced, vocabulary: Alphabet, archive: Archive, incumbent: Ids
) -> list[Scored]:
    """Score candidates and note what they cost; the incumbent, where it was scored once more, comes last.

    Raises:
        SearchError: a cost is not finite; it is named.
    """
    if not candidates:
        return []
    cost = objective.cost(candidates, incumbent or None)
    totals, exact = cost.total.tolist(), cost.exact.tolist()
    for index, total in enumerate(totals):
        if not math.isfinite(total):
            raise SearchError(f"the prefix {vocabulary.text(candidates[index])!r} costs {cost.candidate(index)}")
    archive.add(candidates, totals, exact)
    scored = [Scored(ids, totals[i], cost.candidate(i), exact[i]) for i, ids in enumerate(candidates)]
    if incumbent and cost.incumbent is not None:
        archive.add([incumbent], [cost.incumbent["total"]], [True])
        scored.append(Scored(incumbent, cost.incumbent["total"], cost.incumbent))
    return scored


def _advance(state: SearchState, scored: Sequence[Scored], shortest: int) -> None:
    """Finish a step: the incumbent stays unless something is cheaper."""
    state.step += 1
    state.cost = next((candidate.terms for candidate in scored if candidate.ids == state.incumbent), state.cost)
    best = min((candidate for candidate in scored if len(candidate.ids) >= shortest), key=_rank, default=None)
    if best is None or not best.exact:
        return
    if best.cost < state.best:
        state.best, state.improved = best.cost, state.step
    if best.cost < state.cost.get("total", math.inf):
        state.incumbent, state.cost = best.ids, best.terms


def _rank(scored: Scored) -> tuple[bool, float]:
    """Cheapest first; what racing dropped early comes after everything else."""
    return not scored.exact, scored.cost


def _line(
    state: SearchState, sifted: _Sifted, scored: Sequence[Scored], before: float | None, vocabulary: Alphabet
) -> dict[str, Any]:
    """The log's line of a step. It never holds a prompt, a trace or a continuation, nor anything but the search's.

    Its `hits` are the candidates, of those scored in all contexts, that cost less than the best of this start did; none
    are counted where there was none.

    Args:
        state: behind the step.
        sifted: what was looked at.
        scored: what it came to; the incumbent last, where it was scored once more.
        before: cost of the best of this start before the step; None where there was none.
        vocabulary: writes prefixes down.
    """
    line: dict[str, Any] = {} if state.restart is None else {"restart": state.restart}
    line |= {"step": state.step - 1, "looked_at": sifted.looked_at, "dropped": sifted.dropped}
    line |= {"scored": len(sifted.alive), "tokens": state.tokens}
    if sifted.alive:
        best = min(scored[: len(sifted.alive)], key=_rank)
        line |= {"best_ids": best.ids, "best_cost": best.terms}
        again = scored[len(sifted.alive) :]
        bar = again[0].cost if again else before
        if bar is not None:
            line["hits"] = sum(each.exact and each.cost < bar for each in scored[: len(sifted.alive)])
    return line | {"prefix_ids": state.incumbent, "text": vocabulary.text(state.incumbent), "cost": state.cost}


@contextmanager
def _progress(steps: int, done: int) -> Generator[Show, None, None]:
    """Hand out the function that shows a finished step.

    Args:
        steps: the most steps.
        done: steps that an earlier run has finished.
    """
    show = _live_table if sys.stderr.isatty() else _plain_lines
    with show(steps, done) as shown:
        yield shown


@contextmanager
def _live_table(steps: int, done: int) -> Generator[Show, None, None]:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    last: deque[dict[str, Any]] = deque(maxlen=ROWS)

    def table() -> Table:
        finished = last[-1]["step"] + 1 if last else done
        shown = Table(title=f"searching: {finished} of {steps} steps", title_justify="left")
        known: list[dict[str, float]] = [line["cost"] for line in last if line["cost"]]
        cost = known[-1] if known else dict[str, float]()
        terms = list(cost)
        for name in ("step", "tokens", "survive", *terms):
            shown.add_column(name, justify="right")
        shown.add_column("best so far", overflow="fold")
        for line in last:
            costs = [f"{line['cost'][term]:.4f}" if term in line["cost"] else "" for term in terms]
            shown.add_row(str(line["step"]), f"{line['tokens']:,}", _survivors(line), *costs, Text(repr(line["text"])))
        return shown

    with Live(table(), console=Console(stderr=True)) as display:

        def show(line: dict[str, Any]) -> None:
            last.append(line)
            display.update(table())

        yield show


@contextmanager
def _plain_lines(steps: int, done: int) -> Generator[Show, None, None]:
    started_s = printed_s = time.monotonic()
    last: dict[str, Any] | None = None

    def report() -> None:
        how = f"{done}/{steps} steps"
        if last is not None:
            cost = f"{last['cost']['total']:.4f}" if last["cost"] else "none"
            how = f"{last['step'] + 1}/{steps} steps, {last['tokens']:,} tokens, {_survivors(last)} survive"
            how += f", best cost {cost}: {last['text']!r}"
        print(f"searching: {how} ({time.monotonic() - started_s:.0f} s)", file=sys.stderr, flush=True)

    def show(line: dict[str, Any]) -> None:
        nonlocal last, printed_s
        last = line
        if time.monotonic() - printed_s >= PLAIN_INTERVAL_S:
            printed_s = time.monotonic()
            report()

    yield show
    report()


def _survivors(line: dict[str, Any]) -> str:
    return f"{line['looked_at'] - line['dropped']}/{line['looked_at']}"
