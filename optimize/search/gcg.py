"""Greedy coordinate gradient (GCG, arXiv 2307.15043) over many contexts at once, for short prefixes.

One step:

    1. the gradient of the cost says, for every place and token, what putting it there would change to first order;
       it is smoothed over steps (momentum, arXiv 2405.01229);
    2. the most promising substitutes of every place that were never tried make up the edits of this step;
    3. edits that do not survive being written down and read again are dropped;
    4. what is left is scored exactly; the incumbent stays unless something beats it.

A short prefix has few neighbours, and sampling them with replacement, as GCG does, mostly draws the same ones again.
Here nothing is scored twice: tried edits make room for the next best, so a neighbourhood that holds no improvement is
worked through rather than resampled, and one that is small is searched exhaustively. A start that no longer improves is
left for another one, from random tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from optimize.config import GcgConfig
from optimize.objectives import Cost
from optimize.search.journal import Journal, SearchState
from safethink.progress import track
from safethink.seeds import stable_seed

Ids = tuple[int, ...]

MAX_START_DRAWS = 256
"""Random prefixes looked at before giving up on finding one that survives."""


@runtime_checkable
class Searchable(Protocol):
    """What is minimised."""

    def cost(self, candidates: Int[Tensor, "candidates length"]) -> Cost:
        """What every candidate costs."""
        ...

    def coordinate_gradient(
        self, prefix: Int[Tensor, "length"], allowed: Int[Tensor, "allowed"]
    ) -> Float[Tensor, "length allowed"]:
        """What putting each allowed token at each place would change, to first order."""
        ...


@runtime_checkable
class Alphabet(Protocol):
    """What prefixes are made of."""

    allowed: tuple[int, ...]

    def survive(self, candidates: Sequence[Ids]) -> list[bool]:
        """Whether each candidate is the same ids after being written down and read again."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of a prefix."""
        ...


def gcg(
    objective: Searchable, vocabulary: Alphabet, config: GcgConfig, init: Ids, journal: Journal, seed: int
) -> SearchState:
    """Search for the prefix of `config.length` tokens that costs least.

    Args:
        objective: what a prefix costs.
        vocabulary: what it may be made of.
        config: how long, how wide, how often.
        init: where the first start begins; cut or padded to the length.
        journal: keeps every step; one that was begun is continued to the same result.
        seed: together with the step, seeds every draw.

    Returns:
        The last state; the first of its `ranked` are the cheapest prefixes that were found.
    """
    state, allowed = journal.resume(), torch.tensor(vocabulary.allowed)
    with track(f"searching {config.length} tokens", config.steps) as advance:
        advance(state.step)
        for step in range(state.step, config.steps):
            generator = torch.Generator().manual_seed(stable_seed("gcg", seed, step))
            if state.incumbent:
                gradient = objective.coordinate_gradient(torch.tensor(state.incumbent), allowed)
                state.momentum = _smooth(state.momentum, gradient, config.momentum)
                candidates, limit = propose(state, allowed, config, generator), config.candidates
            else:
                kept = init[: config.length] if state.restart == 0 else ()
                candidates, limit = _starts(state, allowed, config.length, kept, generator), 1
                if not candidates:
                    break
            line = _try(state, objective, vocabulary, candidates, limit) | {"fingerprint": journal.fingerprint}
            state.step += 1
            if not candidates or state.stale > config.patience:
                state = SearchState(restart=state.restart + 1, step=state.step, visited=state.visited)
            journal.commit(state, line)
            advance(1)
    return state


def propose(
    state: SearchState, allowed: Int[Tensor, "allowed"], config: GcgConfig, generator: torch.Generator
) -> list[Ids]:
    """Edits of the incumbent that were never tried, in random order.

    The `top_k` most promising untried substitutes of every place, one at a time, and a share of pairs of them: word
    order and word pairs matter, and no single edit crosses a barrier between two of them.

    Args:
        state: with the momentum of this step.
        allowed: ids that may take a place; the columns of the momentum.
        config: `top_k` and `pair_share`.
        generator: shuffles, and draws the pairs.
    """
    promise = state.momentum.masked_fill(_tried(state, allowed), float("inf"))
    values, columns = promise.topk(min(config.top_k, len(allowed)), largest=False)
    places, ranks = (values < float("inf")).nonzero(as_tuple=True)
    edits = list(zip(places.tolist(), allowed[columns[places, ranks]].tolist(), strict=True))
    num_pairs = round(len(edits) * config.pair_share / (1 - config.pair_share))
    draws = torch.randint(max(1, len(edits)), (num_pairs, 2), generator=generator).tolist() if edits else []
    pairs = [(edits[a], edits[b]) for a, b in draws if edits[a][0] != edits[b][0]]
    changes = [(edit,) for edit in edits] + pairs
    shuffled = (changes[index] for index in torch.randperm(len(changes), generator=generator).tolist())
    edited = dict.fromkeys(_edited(state.incumbent, change) for change in shuffled)
    return [ids for ids in edited if ids not in state.visited]


def _smooth(
    momentum: Float[Tensor, "..."], gradient: Float[Tensor, "length allowed"], share: float
) -> Float[Tensor, "length allowed"]:
    return share * momentum + (1 - share) * gradient if momentum.numel() else gradient


def _tried(state: SearchState, allowed: Int[Tensor, "allowed"]) -> Bool[Tensor, "length allowed"]:
    """Which single edits of the incumbent were tried, the one that changes nothing among them."""
    visited = torch.tensor(list(state.visited))
    changed = visited != torch.tensor(state.incumbent)
    neighbours = [visited[changed.sum(1) == changed[:, place], place] for place in range(len(state.incumbent))]
    return torch.stack([torch.isin(allowed, tokens) for tokens in neighbours])


def _edited(ids: Ids, edits: Sequence[tuple[int, int]]) -> Ids:
    out = list(ids)
    for place, token in edits:
        out[place] = token
    return tuple(out)


def _starts(
    state: SearchState, allowed: Int[Tensor, "allowed"], length: int, kept: Ids, generator: torch.Generator
) -> list[Ids]:
    """Untried prefixes to begin with: first `kept` filled up with random tokens, then random ones."""
    draws = torch.randint(len(allowed), (MAX_START_DRAWS, length), generator=generator)
    randoms = [tuple(ids) for ids in allowed[draws].tolist()]
    filled = [kept + ids[len(kept) :] for ids in randoms] if kept else []
    return [ids for ids in dict.fromkeys([*filled, *randoms]) if ids not in state.visited]


def _try(
    state: SearchState, objective: Searchable, vocabulary: Alphabet, candidates: Sequence[Ids], limit: int
) -> dict[str, Any]:
    """Score the first `limit` candidates that survive, note all that were looked at, and describe the step."""
    alive = vocabulary.survive(candidates)
    dropped = [ids for ids, survives in zip(candidates, alive, strict=True) if not survives]
    scored = [ids for ids, survives in zip(candidates, alive, strict=True) if survives][:limit]
    state.visited |= dict.fromkeys(dropped, float("inf"))
    line = {"restart": state.restart, "step": state.step, "looked_at": len(candidates), "dropped": len(dropped)}
    state.stale += 1
    if scored:
        cost = objective.cost(torch.tensor(scored))
        state.visited |= dict(zip(scored, cost.total.tolist(), strict=True))
        best = int(cost.total.argmin())
        line |= {"scored": len(scored), "best_ids": scored[best], "best_cost": cost.terms(best)}
        if cost.total[best] < state.cost.get("total", float("inf")):
            state.incumbent, state.cost, state.stale = scored[best], cost.terms(best), 0
    return line | {"prefix_ids": state.incumbent, "text": vocabulary.text(state.incumbent), "cost": state.cost}
