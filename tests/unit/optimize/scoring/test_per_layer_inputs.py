"""Where layers read inputs of their own for a token, losses and gradients are those of both parts of its row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from optimize.objectives import CachedScorer, Objective, SafeContinuation, Weighted
from optimize.scoring import Example, Scorer
from safethink.models.input_rows import RowLayout
from tests.support import architectures
from tests.support.in_double import InDouble

EXAMPLES = [
    Example((5, 6, 7, 8, 9), target=(10, 11, 12), separator=(4,)),
    Example(tuple(range(20, 40)), target=(10, 11, 12, 13)),
    Example((90, 3), target=(14,)),
]
PREFIX = torch.tensor([17, 250, 33])
STEP = 1e-5


@pytest.fixture(scope="module", params=architectures.PER_LAYER, ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest):
    return request.param()


@pytest.fixture(autouse=True)
def in_double() -> Iterator[None]:
    """Differences as small as these drown in what these classes compute in float32."""
    with InDouble():
        yield


@pytest.fixture(scope="module")
def rows(model) -> torch.Tensor:
    return RowLayout.of(model).look_up(model, PREFIX).detach()


@pytest.mark.parametrize("attention", ["plain", "expanded"])
def test_rows_of_tokens_cost_what_the_tokens_cost(model, rows, attention):
    scorer = Scorer(model, EXAMPLES, attention=attention)
    with torch.no_grad():
        torch.testing.assert_close(scorer.soft_losses(rows), scorer.continuations(PREFIX[None])[0], atol=1e-12, rtol=0)
        torch.testing.assert_close(scorer.soft_divergence(rows), scorer.divergence(PREFIX[None])[0], atol=1e-12, rtol=0)


def test_the_gradient_is_that_of_differences_in_every_part(model, rows):
    scorer = Scorer(model, EXAMPLES)
    gradient = scorer.gradient(PREFIX)
    assert gradient.shape == rows.shape
    directions = torch.randn(4, *rows.shape, dtype=rows.dtype, generator=torch.Generator().manual_seed(0))
    for part in (slice(32), slice(32, None)):
        for direction in directions:
            step = torch.zeros_like(rows)
            step[:, part] = STEP * direction[:, part]
            with torch.no_grad():
                change = (scorer.soft_losses(rows + step) - scorer.soft_losses(rows - step)).mean() / (2 * STEP)
            assert change.item() == pytest.approx((gradient * step).sum().item() / STEP, rel=1e-5, abs=1e-9)


def test_the_gradient_of_a_prefixs_own_likelihood_is_too(model, rows):
    scorer = Scorer(model, EXAMPLES, attention="plain")
    found = scorer.nll_gradient(PREFIX)

    def nll(read: torch.Tensor) -> float:
        """By a forward for each context, of rows of which all but the prefix's are its own."""
        layout, total = RowLayout.of(model), 0.0
        for example in EXAMPLES:
            before = layout.look_up(model, torch.tensor(example.context))
            logits = model(**layout.inputs(torch.cat([before, read])[None])).logits[0, len(example.context) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, PREFIX).item()
        return total / len(EXAMPLES)

    step = STEP * torch.randn(*rows.shape, dtype=rows.dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        change = nll(rows + step) - nll(rows - step)
    assert change / 2 == pytest.approx((found.embeddings * step).sum().item(), rel=1e-5)


def test_what_a_token_is_estimated_to_change_is_of_both_its_tables(model, rows):
    """The slope of the loss on the straight way from the row of one token to that of another."""
    scorer = Scorer(model, EXAMPLES)
    objective = Objective(model, [Weighted(SafeContinuation(CachedScorer(scorer)))])
    allowed = torch.tensor([17, 33, 99, 201, 250])
    found = objective.coordinate_gradient(PREFIX, allowed)
    for place, column in ((0, 2), (1, 3), (2, 0)):
        there = RowLayout.of(model).look_up(model, allowed[column, None])[0].detach()
        step = torch.zeros_like(rows)
        step[place] = STEP * (there - rows[place])
        with torch.no_grad():
            slope = (scorer.soft_losses(rows + step) - scorer.soft_losses(rows - step)).mean().item() / (2 * STEP)
        own = allowed.tolist().index(int(PREFIX[place]))
        assert slope == pytest.approx((found[place, column] - found[place, own]).item(), rel=1e-5, abs=1e-9)
