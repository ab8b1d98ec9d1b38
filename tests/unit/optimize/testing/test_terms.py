"""Terms keep what the suite asks of each, and each check finds the fault it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from optimize.objectives import TermGradient
from optimize.objectives.readability import Length
from optimize.testing import terms
from safethink.testing.check import Check

EMBEDDINGS = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CONTEXTS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CANDIDATES = ((3, 4, 5), (6, 7, 8), (9, 9, 3))


class Bent:
    """A sound term over contexts, which sees tokens through their embeddings; each subclass breaks one thing."""

    name, meters, num_contexts = "bent", (), len(CONTEXTS)

    def each(self, rows: Tensor) -> Tensor:
        return (rows @ CONTEXTS.T).tanh().mean(-2)

    def context_costs(self, candidates: Tensor, contexts: Sequence[int]) -> Tensor:
        return self.each(EMBEDDINGS[candidates])[:, list(contexts)]

    def soft_cost(self, rows: Tensor) -> Tensor:
        return self.each(rows).mean()

    def gradient(self, prefix: Tensor) -> TermGradient | None:
        rows = EMBEDDINGS[prefix].requires_grad_()
        return TermGradient(torch.autograd.grad(self.soft_cost(rows), rows)[0])


class Counted:
    """A sound term that sees tokens by what they are."""

    name, meters = "counted", ()

    def costs(self, candidates: Tensor) -> Tensor:
        return candidates.double().mean(1)

    def soft_cost(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(())

    def gradient(self, prefix: Tensor) -> TermGradient | None:
        costs = torch.arange(20.0) / len(prefix)
        return TermGradient(torch.zeros(len(prefix), 6), costs.expand(len(prefix), -1))


class Nameless:
    def soft_cost(self, rows: Tensor) -> Tensor:
        return rows.new_zeros(())


class Endless(Counted):
    def costs(self, candidates: Tensor) -> Tensor:
        return candidates.double().mean(1) / 0


class Ranked(Counted):
    """Compares with its batch."""

    def costs(self, candidates: Tensor) -> Tensor:
        costs = super().costs(candidates)
        return costs - costs.mean()


class Leaky(Bent):
    """A context's cost depends on the others'."""

    def context_costs(self, candidates: Tensor, contexts: Sequence[int]) -> Tensor:
        costs = super().context_costs(candidates, contexts)
        return costs - costs.mean(1, keepdim=True)


class Uphill(Bent):
    def gradient(self, prefix: Tensor) -> TermGradient | None:
        gradient = super().gradient(prefix)
        assert gradient is not None
        return TermGradient(-gradient.embeddings)


class Flat(Counted):
    """Says that no substitution changes anything."""

    def gradient(self, prefix: Tensor) -> TermGradient | None:
        return None


class Shuffled(Counted):
    def gradient(self, prefix: Tensor) -> TermGradient | None:
        gradient = super().gradient(prefix)
        assert gradient is not None
        assert gradient.token_costs is not None
        return TermGradient(gradient.embeddings, gradient.token_costs.flip(1))


def suite(make: Callable[[], Any]) -> tuple[Check, ...]:
    return terms.checks(make, EMBEDDINGS, CANDIDATES)


BROKEN: list[tuple[Callable[[], Any], Callable[..., None]]] = [
    (Nameless, terms.has_the_members_of_a_term),
    (Endless, terms.gives_one_finite_cost_per_candidate),
    (Ranked, terms.prices_a_candidate_alike_whatever_is_beside_it),
    (Leaky, terms.prices_a_context_alike_whatever_is_beside_it),
    (Uphill, terms.has_the_gradient_of_its_costs),
    (Flat, terms.has_the_gradient_of_its_costs),
    (Shuffled, terms.has_the_gradient_of_its_costs),
]


@pytest.mark.parametrize(("make", "broken"), BROKEN, ids=[make.__name__ for make, _ in BROKEN])
def test_a_check_finds_its_fault(make: Callable[[], Any], broken: Callable[..., None]) -> None:
    check = next(each for each in suite(make) if each.name == broken.__name__)
    with pytest.raises(AssertionError):
        check()


def test_every_check_has_a_fault_that_it_finds() -> None:
    assert {broken.__name__ for _, broken in BROKEN} == {check.name for check in suite(Bent)}


@pytest.mark.parametrize("make", [Bent, Counted, Length])
def test_a_sound_one_passes_them_all(make: Callable[[], Any]) -> None:
    for check in suite(make):
        check()
