# pyright: standard
"""Contract of every term of an objective; its gradient is compared with finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize.objectives.protocols import ContextTerm, Term, WholeTerm
from safethink.testing.check import Check, checks_of, ensure

STEP = 1e-3
"""Half of a finite difference's width, as a share of the rows' root mean square."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A term before its suite.

    Attributes:
        make: makes a fresh one.
        embeddings: what the reasoner reads for each token of the vocabulary.
        candidates: prefixes of one length, two at least.
        tolerance: how far two costs of the same prefix may differ.
    """

    make: Callable[[], WholeTerm | ContextTerm]
    embeddings: Float[Tensor, "vocab hidden"]
    candidates: Int[Tensor, "candidates length"]
    tolerance: float

    def costs(self, candidates: Int[Tensor, "candidates length"]) -> Tensor:
        """Costs of candidates by a fresh term: one column, or one per context."""
        term = self.make()
        if isinstance(term, ContextTerm):
            return term.context_costs(candidates, range(term.num_contexts))
        return term.costs(candidates)[:, None]

    def same(self, first: Tensor, second: Tensor, fault: str) -> None:
        """Raise with the fault where costs differ by more than the tolerance."""
        ensure(first.shape == second.shape, f"{fault}: shapes {tuple(first.shape)} and {tuple(second.shape)}")
        apart = float((first.double() - second.double()).abs().max())
        ensure(apart <= self.tolerance, f"{fault}: {apart:.3g} apart")


def checks(
    make: Callable[[], WholeTerm | ContextTerm],
    embeddings: Float[Tensor, "vocab hidden"],
    candidates: Sequence[tuple[int, ...]],
    tolerance: float = 1e-4,
) -> tuple[Check, ...]:
    """The suite for a term.

    Args:
        make: makes a fresh one.
        embeddings: what the reasoner reads for each token of the vocabulary.
        candidates: prefixes of one length, two at least.
        tolerance: how far two costs of the same prefix may differ.
    """
    return checks_of(
        Trial(make, embeddings.detach(), torch.tensor(candidates), tolerance),
        has_the_members_of_a_term,
        gives_one_finite_cost_per_candidate,
        prices_a_candidate_alike_whatever_is_beside_it,
        prices_a_context_alike_whatever_is_beside_it,
        has_the_gradient_of_its_costs,
    )


def has_the_members_of_a_term(trial: Trial) -> None:
    """It has a term's members, a name, and prices whole prefixes or contexts."""
    made: object = trial.make()
    is_term = isinstance(made, Term) and isinstance(made, WholeTerm | ContextTerm)
    ensure(is_term, f"a {type(made).__name__} is without one of a term's members")


def gives_one_finite_cost_per_candidate(trial: Trial) -> None:
    """Costs are finite, one per candidate and context; a soft prefix costs one number."""
    costs = trial.costs(trial.candidates)
    ensure(len(costs) == len(trial.candidates), f"{len(costs)} costs for {len(trial.candidates)} candidates")
    ensure(bool(costs.isfinite().all()), f"costs are {costs.tolist()}")
    soft = trial.make().soft_cost(trial.embeddings[trial.candidates[0]])
    ensure(soft.ndim == 0 and bool(soft.isfinite()), f"a soft prefix costs {soft}")


def prices_a_candidate_alike_whatever_is_beside_it(trial: Trial) -> None:
    """Alone, in a batch, or in a batch the other way round, a candidate costs the same; so it does asked twice."""
    together = trial.costs(trial.candidates)
    trial.same(together, trial.costs(trial.candidates), "asked again, costs differ")
    trial.same(together, trial.costs(trial.candidates.flip(0)).flip(0), "in another order, costs differ")
    alone = torch.cat([trial.costs(candidate[None]) for candidate in trial.candidates])
    trial.same(together, alone, "alone, costs differ")


def prices_a_context_alike_whatever_is_beside_it(trial: Trial) -> None:
    """In a mean over contexts, each of them costs alone what it costs among all: a race relies on it."""
    term = trial.make()
    if not isinstance(term, ContextTerm):
        return
    together = trial.costs(trial.candidates)
    ensure(together.shape[1] == term.num_contexts, f"{together.shape[1]} costs for {term.num_contexts} contexts")
    alone = [trial.make().context_costs(trial.candidates, [index]) for index in range(term.num_contexts)]  # pyright: ignore[reportAttributeAccessIssue] (it is one more of them)
    trial.same(together, torch.cat(alone, 1), "alone, contexts cost something else")


def has_the_gradient_of_its_costs(trial: Trial) -> None:
    """Its gradient is that of finite differences: along the embeddings, or exactly from token to token.

    A term that sees tokens both ways is checked along neither, for no single cost moves by one of them alone.
    """
    term, prefix = trial.make(), trial.candidates[0]
    gradient = term.gradient(prefix)
    if gradient is None:
        for place in range(len(prefix)):
            _equal_but_for_a_constant(trial, place, torch.zeros(len(trial.embeddings)))
        return
    if gradient.token_costs is None:
        _along_the_embeddings(trial, prefix, gradient.embeddings)
    elif not gradient.embeddings.any():
        for place in range(len(prefix)):
            _equal_but_for_a_constant(trial, place, gradient.token_costs[place])


def _along_the_embeddings(trial: Trial, prefix: Tensor, gradient: Tensor) -> None:
    term, rows = trial.make(), trial.embeddings[prefix]
    trial.same(
        term.soft_cost(rows).detach()[None], trial.costs(prefix[None]).mean(1), "a prefix and its rows cost differently"
    )
    scale = STEP * float(rows.pow(2).mean().sqrt())
    for seed in range(3):
        direction = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed)).to(rows)
        ahead, behind = (float(term.soft_cost(rows + sign * scale * direction)) for sign in (1, -1))
        measured, promised = (ahead - behind) / (2 * scale), float((gradient.to(rows) * direction).sum())
        apart = abs(measured - promised)
        limit = 0.02 * max(abs(measured), abs(promised)) + 10 * trial.tolerance
        ensure(apart <= limit, f"the gradient promises {promised:.5g}, and finite differences say {measured:.5g}")


def _equal_but_for_a_constant(trial: Trial, place: int, promised: Tensor) -> None:
    """Only differences between tokens count: at each place costs and promises may differ by a constant."""
    tokens = trial.candidates.unique()
    swapped = trial.candidates[:1].repeat(len(tokens), 1)
    swapped[:, place] = tokens
    apart = trial.costs(swapped).mean(1).double() - promised[tokens].double()
    spread = float(apart.max() - apart.min())
    ensure(spread <= trial.tolerance, f"at place {place} the gradient and real substitutions are {spread:.3g} apart")
